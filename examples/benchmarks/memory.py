"""Peak memory of a SimCLR training step with learned views, relative to one without; and of the views alone.

What every tensor holds is followed from its making to its release, on the meta device, which computes nothing: any
batch will do. What single operations need in between, such as the work space of a convolution, is not seen.

python -m viewaug.examples.benchmarks.memory
"""

import argparse
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from viewaug.examples.benchmarks.step import encoder

from viewaug import AdversarialAugmentation, Viewmaker


class Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._seen.add(tensor.untyped_storage())  # and not made by a view of it
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _release(self, size: int) -> None:
        self.now -= size


def peak(run: Callable[[], object]) -> int:
    """Return the largest number of bytes that were in use at once, beside those that were before."""
    with Memory() as memory:
        run()
    return memory.peak


def step(model: nn.Module, x: Tensor, augmentation: AdversarialAugmentation | None = None) -> None:
    """Pass forward and backward, on two views or twice on the input itself; the loss itself takes next to nothing."""
    z0, z1 = map(model, [x, x] if augmentation is None else augmentation.views(x))
    (z0 * z1).sum().backward()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 256, 4096], help="pairs of views in a batch")
    parser.add_argument("--patch", type=int, default=4, help="side of a cell of the generator's grid")
    options = parser.parse_args(arguments)

    for stem, size in (("cifar", 32), ("torchvision", 224)):
        print(f"\nResNet-18, {stem} stem, 3x{size}x{size}: peak memory")
        print(f"{'batch':>8}{'a step, to one without views':>32}{'a view, to the first convolution':>36}")
        model = encoder(stem).to("meta")
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        for batch in options.batch:
            x = torch.empty(batch, 3, size, size, device="meta")
            views = AdversarialAugmentation(Viewmaker(patch=options.patch).to("meta"))
            of_step = peak(lambda: step(model, x, views)) / peak(lambda: step(model, x))  # noqa: B023
            of_view = peak(lambda: views(x).sum().backward()) / peak(lambda: first(x).sum().backward())  # noqa: B023
            print(f"{batch:>8}{of_step:>30.2f} x{of_view:>34.2f} x")


if __name__ == "__main__":
    main()
