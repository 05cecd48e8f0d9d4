"""Views per second: the two generators beside kornia's pipeline, every perturbation, and random twins beside kornia's.

python -m viewaug.examples.benchmarks.views [--compile]
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor
from viewaug.examples.benchmarks._timing import alternate, environment

from viewaug import Viewmaker
from viewaug.comparison.handmade import simclr_pipeline

IMAGES: list[Any] = [
    "additive",
    "spectral",
    "colour",
    "warp",
    "affine",
    "blur",
    "mask",
    "mix",
    "crop",
    "channels",
    {"name": "kornia", "op": "RandomSharpness"},
    ["spectral", "colour", "warp"],
]
# Networks that are smaller than that of the default, and none.
SMALLER: dict[str, dict[str, Any]] = {
    "depth=1": {"depth": 1},
    "width=16": {"width": 16},
    "patch=8": {"patch": 8},
    "width=16, patch=8": {"width": 16, "patch": 8},
    "random": {"generator": "random"},
}
SERIES = ["additive", "spectral", "warp", "blur", "mask", "mix", "crop", "channels", "gain", "filter"]
# A random twin without a budget, and the module of kornia's that does the same, or next to it.
TWINS: list[tuple[Any, str, dict[str, Any]]] = [
    ("mix", "RandomCutMixV2", {"data_keys": ["input"], "use_correct_lambda": True}),
    ({"name": "mix", "edge": None}, "RandomMixUpV2", {"data_keys": ["input"]}),
    ({"name": "mask", "fill": "zero"}, "RandomErasing", {"scale": (0.02, 0.5)}),
    ("crop", "RandomResizedCrop", {"size": (32, 32)}),
    ({"name": "channels", "rotate": 0.0, "exchange": 0.0}, "RandomChannelDropout", {}),
    ("warp", "RandomElasticTransform", {}),
    (
        "affine",
        "RandomAffine",
        {"degrees": 15.0, "translate": (0.12, 0.12), "scale": (0.8, 1.2), "shear": 7.5, "padding_mode": "reflection"},
    ),
    ("colour", "ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    ("blur", "RandomGaussianBlur", {"kernel_size": (3, 3), "sigma": (0.1, 2.0)}),
]


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
            **{name: (Viewmaker(**smaller), x) for name, smaller in SMALLER.items()},
            "reference": (Viewmaker(generator="reference"), small),
        }
        if options.compile:
            ways["fast, compiled"] = (torch.compile(Viewmaker()), x)
        _print(f"{batch} x 3x{size}x{size}", ways, options.rounds)
        _print(
            f"{batch} x 3x{size}x{size}, by perturbation",
            {_label(spec): (Viewmaker(perturbation=spec), x) for spec in IMAGES},
            options.rounds,
        )
        for spec, name, of_name in TWINS:
            own = {"size": (size, size)} if "size" in of_name else of_name
            _print(
                f"{batch} x 3x{size}x{size}, random {_label(spec)} without a budget",
                {
                    name: (getattr(K, name)(**own, p=1.0), x),
                    _label(spec): (Viewmaker(generator="random", perturbation=spec, budget=None), x),
                },
                options.rounds,
            )
        series = x.flatten(2)
        _print(
            f"{batch} x 3x{size * size}, by perturbation",
            {_label(spec): (Viewmaker(dims=1, perturbation=spec), series) for spec in SERIES},
            options.rounds,
        )


def _label(spec: Any) -> str:
    if isinstance(spec, list):
        return "+".join(map(_label, spec))
    return spec if isinstance(spec, str) else ", ".join(map(str, spec.values()))


def _print(title: str, ways: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]], rounds: int) -> None:
    """Print views per second, forward and with the backward pass, and as multiples of the first way."""
    first = next(iter(ways))
    print(f"\n{title}: views per second, and as a multiple of {first}")
    print(f"{'':26}{'forward':>18}{'forward+backward':>24}")
    results = [
        alternate({name: functools.partial(run, make, data) for name, (make, data) in ways.items()}, rounds)
        for run in (_forward, _both)
    ]
    for name, (_, data) in ways.items():
        cells = ""
        for seconds, width in zip(results, (8, 14), strict=True):
            rate, base = len(data) / seconds[name], len(ways[first][1]) / seconds[first]
            cells += f"{rate:>{width},.0f}{rate / base:>8.2f} x"
        print(f"{name:26}{cells}")


@torch.no_grad()
def _forward(make: Callable[[Tensor], Tensor], x: Tensor) -> None:
    make(x)


def _both(make: Callable[[Tensor], Tensor], x: Tensor) -> None:
    make(x.clone().requires_grad_()).sum().backward()


if __name__ == "__main__":
    main()
