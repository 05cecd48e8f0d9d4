"""The discrete cosine transform of images, beside torch-dct and one by torch.fft.

python -m viewaug.examples.benchmarks.dct
"""

import argparse
import functools
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from viewaug.examples.benchmarks._timing import alternate, environment

from viewaug.perturbations.spectral import dct, fast_dct


def by_fft(x: Tensor) -> Tensor:
    """Transform both axes by fast Fourier transforms."""
    return fast_dct(fast_dct(x, -1), -2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="alternating rounds, of which the median counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 96, 224], help="sides of the images")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the batch sizes, 256 at 32 pixels")
    options = parser.parse_args(arguments)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"viewaug": lambda x: dct(x, 2), "torch.fft": by_fft}
    try:
        ways["torch-dct"] = functools.partial(importlib.import_module("torch_dct").dct_2d, norm="ortho")
    except ImportError:
        print("torch-dct is not installed; it is left out.")

    print(environment())
    print(f"{'milliseconds':26}" + "".join(f"{name + ' (and backward)':>26}" for name in ways))
    for size in options.sizes:
        batch = max(1, round(options.scale * {32: 256}.get(size, 64)))
        x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        forward = alternate({name: functools.partial(way, x) for name, way in ways.items()}, options.rounds)
        leaf = x.clone().requires_grad_()

        def both(way: Callable[[Tensor], Tensor], leaf: Tensor = leaf) -> object:
            return torch.autograd.grad(way(leaf).sum(), leaf)

        trained = alternate({name: functools.partial(both, way) for name, way in ways.items()}, options.rounds)
        cells = [
            f"{1000 * forward[name]:.1f} ({1000 * trained[name]:.1f}), {forward[name] / forward['viewaug']:.2f} x"
            for name in ways
        ]
        print(f"{f'{batch}x3x{size}x{size}':26}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
