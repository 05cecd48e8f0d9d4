"""Perturbations that go by one name in experiments; those that bound themselves have no budget.

python -m viewaug.examples.families --out families.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import viewaug
from viewaug._files import replacing

FAMILIES: dict[str, Any] = {
    "mix": {"name": "mix", "budget": None},
    "softmix": {"name": "mix", "edge": (0.05, 2.0), "budget": None},  # an edge drawn from hard to nearly uniform
    "mixup": {"name": "mix", "edge": None, "budget": None},
    "mask": {"name": "mask", "budget": None},
    "stripes": {"name": "mask", "grain": (1.0, 4), "budget": None},
    "crop": {"name": "crop", "budget": None},
    "channels": {"name": "channels", "budget": None},
    # Learned mixing within the common budget.
    "blend": {"name": "mix", "edge": 0.5},
}


def family(names: Sequence[str]) -> list[Any]:
    """Return the perturbations of some names, for :class:`viewaug.Viewmaker`.

    Examples:
        >>> family(["mix", "additive"])
        [{'name': 'mix', 'budget': None}, 'additive']
    """
    return [FAMILIES.get(name, name) for name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw photographs with digits, and a random view of each kind."""
    from viewaug.examples.photo_digits import photo_digits

    from viewaug.plots import view_grid

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("families.png"), help="figure to write")
    options = parser.parse_args(arguments)
    x = photo_digits(10, train=False).images
    views = []
    names = [name for name in FAMILIES if name != "blend"]
    for name in names:
        viewmaker = viewaug.Viewmaker(3, generator="random", perturbation=FAMILIES[name])
        views.append(viewmaker(x, viewmaker.draw_noise(x, torch.Generator().manual_seed(0))))
    figure = view_grid(x, views, labels=names)
    with replacing(options.out) as temporary:
        figure.savefig(temporary, dpi=130)
    print(options.out)


if __name__ == "__main__":
    main()
