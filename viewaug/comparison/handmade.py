"""The hand-made augmentations of SimCLR, by kornia."""

from collections.abc import Sequence

import kornia.augmentation as K
from torch import Tensor, nn


def simclr_pipeline(size: int | Sequence[int], strength: float = 1.0, *, colour: bool = True) -> nn.Module:
    """Crop, flip, colour jitter, grayscale and blur, drawn for each sample (Chen et al., ICML 2020, appendix A).

    The kernel of the blur is a tenth of the image's side, as there.

    Args:
        size: of the images.
        strength: factor of what is cropped away and of the jitter.
        colour: whether there are three channels; else there is brightness and contrast only.

    Examples:
        >>> simclr_pipeline(32)(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """
    height, width = (size, size) if isinstance(size, int) else size
    blur = max(3, min(height, width) // 10 // 2 * 2 + 1)
    s = 0.4 * strength
    jitter = [K.ColorJitter(s, s, s, min(0.5, s / 4), p=0.8), K.RandomGrayscale(p=0.2)]
    light = [K.RandomBrightness((1 - s, 1 + s), p=0.8), K.RandomContrast((1 - s, 1 + s), p=0.8)]
    return K.AugmentationSequential(
        K.RandomResizedCrop((height, width), scale=(max(0.05, 1 - 0.8 * strength), 1.0)),
        K.RandomHorizontalFlip(),
        *(jitter if colour else light),
        K.RandomGaussianBlur((blur, blur), (0.1, 2.0), p=0.5),
    )


def simclr_views(x: Tensor) -> Tensor:
    """Views of a batch of images by these augmentations, as ``viewaug diagnose --compare`` takes them."""
    return simclr_pipeline(x.shape[2:])(x)
