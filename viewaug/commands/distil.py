"""Write the fixed recipe that is nearest to a saved viewmaker: random views with its ranges, without a network.

There is always a random viewmaker, random_viewmaker.py and .yaml; and of images, where nothing has a budget and all
perturbations are affine, blur, colour and crop, a pipeline of kornia's, augmentation.py and .yaml. The data are as of
`viewaug explain`.
"""

from collections.abc import Sequence

import viewaug
from viewaug._files import replacing
from viewaug.commands.explain import load_and_read, parser_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the recipe."""
    parser = parser_of("distil", __doc__)
    options = parser.parse_args(arguments)
    try:
        recipe = viewaug.distil(*load_and_read(options), views=options.views, seed=options.seed)
        for name, text in recipe.files().items():
            with replacing(options.out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(options.out / name)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug distil: {error}\n")
    print("\nIt does not hold:", *recipe.lost, sep="\n")
