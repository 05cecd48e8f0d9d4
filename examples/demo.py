"""The main job, on real images that carry two labels at once: which views do they need?

The images are photographs with handwritten digits pasted on (viewaug.examples.photo_digits); a small encoder is
pretrained with each kind of views, and linear probes on its frozen features tell how much it knows of either label.
It needs no download and no GPU. Killed and started again with the same --out, it goes on where it was. All other
options are those of viewaug compare.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from viewaug.examples.photo_digits import photo_digits

from viewaug._files import replacing
from viewaug.commands import compare
from viewaug.commands._arguments import positive

MINUTES = "10"  # unless the user says
METHODS = ("untrained", "none", "noise", "mask", "region", "mixup", "expert", "learned", "learned:blend+additive")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the images, and compare views of them."""
    parser = argparse.ArgumentParser(
        prog="viewaug demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=positive(int), default=4096, help="training images (default 4096)")
    parser.add_argument("--test-images", type=positive(int), default=2000, help="test images (default 2000)")
    parser.add_argument("--methods", nargs="+", default=METHODS, help=f"default: {' '.join(METHODS)}")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for data, results and report")
    options, rest = parser.parse_known_args(arguments)
    write_data(options.out, options.images, options.test_images)
    given = ["--data", str(options.out / "arrays"), "--out", str(options.out), "--methods", *options.methods]
    compare.main([*given, "--minutes", MINUTES, *rest])


def write_data(out: Path, train_images: int, test_images: int) -> None:
    """Write the arrays that are compared on, and the test images once more, with masks, for ``viewaug diagnose``."""
    train, test = photo_digits(train_images, train=True), photo_digits(test_images, train=False)
    arrays = {
        "x": torch.cat([train.images, test.images]),
        "photo": torch.cat([train.photo, test.photo]),
        "digit": torch.cat([train.digit, test.digit]),
        "split": torch.arange(train_images + test_images) >= train_images,
        "value_range": torch.tensor([0.0, 1.0]),
    }
    for name, array in arrays.items():
        with replacing(out / "arrays" / f"{name}.npy") as temporary:
            np.save(temporary, array.numpy())
    with replacing(out / "data.npz") as temporary:
        np.savez_compressed(temporary, x=test.images, mask=test.mask, photo=test.photo, digit=test.digit)


if __name__ == "__main__":
    main()
