"""A figure of the families of perturbations: photographs with digits, and a random view of each kind.

python -m viewaug.examples.families --out families.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import viewaug
from viewaug._files import replacing
from viewaug.comparison.views import FAMILIES


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
