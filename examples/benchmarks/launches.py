"""Launches of one training step of a viewmaker: what a small network costs on an accelerator. None is needed to count.

Operations are counted on the meta device, views of tensors left out: in the forward pass with its noise and the
reversal of the gradient, in the backward pass, and in a step of the optimizer. Compiled, what counts is the kernels
that Inductor generates, and its calls of libraries.

python -m viewaug.examples.benchmarks.launches [--compile]
"""

import argparse
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from viewaug import JointOptimizer, Viewmaker, reverse_gradient

# What makes no launch beside views: memory that nothing is written to, and marks for a profiler.
NOTHING = ("empty", "new_empty", "_unsafe_view", "_reshape_alias", "_record_function")
PASSES = ("forward", "backward", "optimizer")


class Launches(TorchDispatchMode):
    """Counts operations by name while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.partition("::")[2]
        if not function.is_view and not name.startswith(NOTHING):
            self.names[name] += 1
        return function(*args, **(kwargs or {}))


def count(viewmaker: Viewmaker, size: Sequence[int] = (32, 32), batch: int = 8) -> dict[str, Counter[str]]:
    """Count the operations of each pass of a training step, by name."""
    encoder = nn.Linear(1, 1)
    optimizer = JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.1), viewmaker.parameters())
    for parameter in viewmaker.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the moments
    with Launches() as stepping:
        optimizer.step()
    optimizer.zero_grad()

    viewmaker.to("meta")
    x = torch.rand(batch, viewmaker.channels, *size, device="meta")
    with Launches() as forward:
        loss = reverse_gradient(viewmaker(x, viewmaker.draw_noise(x)))
    with Launches() as backward:
        if loss.requires_grad:
            loss.sum().backward()
    return dict(zip(PASSES, (forward.names, backward.names, stepping.names), strict=True))


def count_compiled(viewmaker: Viewmaker, size: Sequence[int] = (32, 32), batch: int = 8) -> dict[str, int]:
    """Count the kernels of both passes of a training step that is compiled on the CPU, and calls of libraries."""
    from torch._inductor import metrics
    from torch._inductor.utils import run_and_get_code

    metrics.reset()
    x = torch.rand(batch, viewmaker.channels, *size)
    compiled = torch.compile(viewmaker)

    def step() -> None:
        view = compiled(x)
        if view.requires_grad:
            view.sum().backward()

    _, code = run_and_get_code(step)
    kernels = metrics.generated_kernel_count
    return {"kernels": kernels, "calls of libraries": sum(text.count("extern_kernels.") for text in code)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perturbation", nargs="+", default=["additive"], metavar="NAME")
    parser.add_argument("--compile", action="store_true", help="count the kernels that Inductor makes, too")
    parser.add_argument("--names", action="store_true", help="say which operations they are")
    options = parser.parse_args(arguments)

    ways = {
        f"{name}, {generator}": functools.partial(
            Viewmaker,
            perturbation=name,
            generator=generator,
            budget=None if name in ("mix", "mask", "crop", "channels") else 0.05,
        )
        for name in options.perturbation
        for generator in ("random", "fast", "reference")
    }
    print(f"{'operations':24}" + "".join(f"{part:>12}" for part in PASSES))
    for name, make in ways.items():
        counts = count(make())
        print(f"{name:24}" + "".join(f"{counts[part].total():>12}" for part in PASSES))
        if options.names:
            for part in PASSES:
                print(f"  {part}: " + ", ".join(f"{many} {op}" for op, many in counts[part].most_common()))
        if options.compile:
            print("  compiled: " + ", ".join(f"{many} {what}" for what, many in count_compiled(make()).items()))


if __name__ == "__main__":
    main()
