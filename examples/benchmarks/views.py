"""Views per second: the two generators beside kornia's SimCLR pipeline.

python -m viewaug.examples.benchmarks.views [--compile]
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from viewaug.examples.benchmarks._timing import alternate, environment
from viewaug.examples.handmade import simclr_pipeline

from viewaug import Viewmaker


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds, of which the median counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 96], help="sides of the images")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the batch sizes, 256 at 32 pixels")
    parser.add_argument("--compile", action="store_true", help="add torch.compile of the fast viewmaker")
    options = parser.parse_args(arguments)

    print(environment())
    for size in options.sizes:
        batch = max(1, round(options.scale * 256 * 32 * 32 * (1 if size == 32 else 2.25) / size**2))
        x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        small = x[: max(1, batch // 16)]  # the original network is some 20 times slower
        ways: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
            "kornia SimCLR": (simclr_pipeline(size), x),
            "fast": (Viewmaker(), x),
            "reference": (Viewmaker(generator="reference"), small),
        }
        if options.compile:
            ways["fast, compiled"] = (torch.compile(Viewmaker()), x)

        def forward(make: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
            return torch.no_grad()(lambda: make(x))

        def both(make: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
            return lambda: make(x.clone().requires_grad_()).sum().backward()

        print(f"\n3x{size}x{size}, batch {batch}: views per second, and as a multiple of kornia's pipeline")
        print(f"{'':18}{'forward':>18}{'forward+backward':>24}")
        results = [
            alternate({name: run(make, data) for name, (make, data) in ways.items()}, options.rounds)
            for run in (forward, both)
        ]
        for name, (_, data) in ways.items():
            rates = [len(data) / seconds[name] for seconds in results]
            ratios = [rate * seconds["kornia SimCLR"] / batch for rate, seconds in zip(rates, results, strict=True)]
            cells = "".join(
                f"{rate:>{width},.0f}{ratio:>8.2f} x" for rate, ratio, width in zip(rates, ratios, (8, 14), strict=True)
            )
            print(f"{name:18}{cells}")


if __name__ == "__main__":
    main()
