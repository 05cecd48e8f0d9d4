"""The multi-task image experiments of Feature Dropout (Tamkin et al., NeurIPS 2023): an overlay on every photograph.

Encoders are pretrained on images that carry two labels, the photograph's and the overlay's, with the views of several
methods; linear probes on frozen features tell how much they know of either. Every finished cell is a file: a killed run
goes on where it was, and several processes can share a folder.

python -m viewaug.examples.multitask_image --preset cpu --data cifar10 --digits mnist --out DIR
python -m viewaug.examples.multitask_image report --out DIR
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import kornia.augmentation as K
from torch import Tensor, nn
from viewaug.examples.multitask import command
from viewaug.examples.multitask.backgrounds import SIZE, Images, backgrounds
from viewaug.examples.multitask.experiment import Experiment, Settings
from viewaug.examples.multitask.methods import Variant
from viewaug.examples.multitask.overlays import Overlaid, digit_images

from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.training import Training
from viewaug.comparison.views import Kind, Method, Views


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """What a result depends on, the cell aside."""

    data: str = "photographs"
    digits: str = "digits"
    train_images: int = 10_000
    test_images: int = 5000
    crop: float = 0.7  # the smallest share of the area that the method `crop` shows
    redraw: bool = False  # overlays, in every epoch
    jitter: int = 0


PRESETS = {
    "quick": ImageSettings(
        train_images=128, test_images=100, curve=1, training=Training(epochs=1, batch=64, precision="32-true")
    ),
    "cpu": ImageSettings(prepool=5000, training=Training(batch=64, budget=0.1, difficulty=0.15)),
    # Ten times the compute of `cpu`; but for scale, the same.
    "night": ImageSettings(
        train_images=30_000,
        prepool=5000,
        training=Training(encoder="medium", epochs=16, batch=64, budget=0.1, difficulty=0.15),
    ),
    # As in the paper's text; --temperature 0.07 and, for letters, --budget 0.1 are what its code has.
    "paper": ImageSettings(
        data="cifar10",
        digits="mnist",
        train_images=50_000,
        test_images=10_000,
        crop=0.2,
        redraw=True,
        curve=0,
        prepool=50_000,
        views_in_probe=True,
        training=Training(encoder="resnet18", epochs=200, cosine=False, precision="32-true"),
    ),
}


class ImageExperiment(Experiment):
    """Shapes, digits or letters on photographs."""

    name = "images"
    title = "Multi-task images"
    group = "overlay"
    groups = ("digits", "shapes", "letters", "none")
    tasks: ClassVar = {"background": "photo", "overlay": "overlay"}
    methods = ("none", "noise", "expert", "crop", "manual", "learned", "crop/learned", "expert/learned")
    own: ClassVar = {"crop": "viewaug.examples.multitask_image:crop"}
    variants: ClassVar = {
        "manual": ("expert", Variant(shared=0.5)),
        "original": ("learned", Variant(in_turns=True)),
    }
    scorers = ("expert", "learned")
    drawn = ("noise", "crop", "expert", "learned", "crop/learned", "expert/learned")
    value_range = (0.0, 1.0)
    packages = ("torch", "lightning", "kornia", "lightly", "timm")
    # Feature Dropout, table 1.
    paper: ClassVar = {
        ("none", "learned"): {"background": 84.5},
        ("none", "expert"): {"background": 86.2},
        ("shapes", "learned"): {"background": 79.8, "overlay": 100.0},
        ("shapes", "expert"): {"background": 76.0, "overlay": 100.0},
        ("digits", "learned"): {"background": 69.3, "overlay": 94.3},
        ("digits", "expert"): {"background": 58.8, "overlay": 86.7},
        ("letters", "learned"): {"background": 71.9, "overlay": 96.9},
        ("letters", "expert"): {"background": 74.8, "overlay": 94.1},
    }
    # Whatever the settings; `original` has the paper's network, head, loss, optimizers and missing clamp.
    departures = """\
- CIFAR-10 from an .npz file may be coded as JPEG; test digits are of the test split, where the paper's are of the
  training split; letters are in DejaVu Sans instead of Arial.
- Learned views come from this package's fast generator instead of the reference network, are kept in [0, 1], and learn
  by a reversed gradient in the encoder's step instead of in turns.
- The loss is NT-Xent with both views as anchors; its head has a hidden layer.
- Probes are logistic regressions by L-BFGS instead of 100 epochs of gradient descent."""

    def presets(self) -> Mapping[str, ImageSettings]:
        """Return the settings of each preset."""
        return PRESETS

    def check(self, settings: ImageSettings) -> None:
        """Read an image, and the digits."""
        backgrounds(settings.data, train=True, count=1)
        digit_images(settings.digits, train=True)

    def kind(self, settings: ImageSettings, variant: Variant) -> Kind:
        """Images in [0, 1]."""
        return Kind(3, (SIZE, SIZE), self.value_range, [0.47] * 3, [0.25] * 3, "input")

    def data(self, group: str, variant: Variant, settings: ImageSettings, seed: int, *, train: bool) -> Overlaid:
        """Return images with overlays."""
        images = _backgrounds(settings.data, train, settings.train_images if train else settings.test_images)
        return Overlaid(
            images,
            group,
            train=train,
            seed=seed if train else 0,
            redraw=settings.redraw and train,
            jitter=settings.jitter,
            shared_overlay_probability=variant.shared if train else 1.0,
            digits=settings.digits,
        )

    def encoder(self, group: str, settings: ImageSettings) -> tuple[nn.Sequential, int]:
        """Return a network that takes images in [0, 1]."""
        return build_encoder(settings.training.encoder)

    def augment(
        self, group: str, method: Method, views: Views, settings: ImageSettings
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what makes a view of a batch by hand."""
        if (method.under or method).maker == "crop":
            return functools.partial(crop, share=settings.crop)
        return views.augment


def crop(x: Tensor, share: float = 0.7) -> Tensor:
    """Crop images to a share of their area, or more, and resize them."""
    cropped: Tensor = K.RandomResizedCrop((SIZE, SIZE), scale=(share, 1.0))(x)
    return cropped


@functools.lru_cache(2)
def _backgrounds(source: str, train: bool, count: int) -> Images:
    return backgrounds(source, train=train, count=count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and report; or report only."""
    sources = {
        "data": "photographs, cifar10 (downloaded), an .npz file or a folder of images",
        "digits": "digits (scikit-learn's), mnist (downloaded) or an .npz file",
    }
    command.main(ImageExperiment(), str(__doc__), sources, arguments)


if __name__ == "__main__":
    main()
