"""The hand-made augmentations of SimCLR, by kornia."""

import kornia.augmentation as K
import torch
from torch import Tensor, nn

from viewaug.budget import ValueRange, constrain


def simclr_pipeline(size: int) -> nn.Module:
    """Crop, flip, colour jitter, grayscale and blur, drawn for each sample (Chen et al., ICML 2020, appendix A).

    The kernel of the blur is a tenth of the image's side, as there.

    Examples:
        >>> simclr_pipeline(32)(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """
    blur = max(3, size // 10 // 2 * 2 + 1)
    return K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((blur, blur), (0.1, 2.0), p=0.5),
    )


def simclr_views(x: Tensor) -> Tensor:
    """Views of a batch of square images by these augmentations, as ``viewaug diagnose --compare`` takes them."""
    return simclr_pipeline(x.shape[-1])(x)


def noise_views(x: Tensor, budget: float, value_range: ValueRange = (0.0, 1.0)) -> Tensor:
    """Views of a batch by uniform noise that spends a budget, as learned views do."""
    return constrain(x, 2 * torch.rand_like(x) - 1, budget, value_range)
