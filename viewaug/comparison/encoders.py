"""Encoders for arrays of any kind: two small ones in one to three dimensions, those of timm, and the user's own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from viewaug._imports import import_function
from viewaug.generators import CONV

NORM: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
ENCODERS = ("residual", "plain", "small", "medium")


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation, numbers or one of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], dims: int = 2) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).reshape(-1, *(1,) * dims))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """A basic residual block (He et al., CVPR 2016) that halves the resolution."""

    def __init__(self, channels: int, width: int, dims: int = 2) -> None:
        super().__init__()
        conv, norm = CONV[dims], NORM[dims]
        self.residual = nn.Sequential(
            conv(channels, width, 3, stride=2, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            conv(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        self.shortcut = nn.Sequential(conv(channels, width, 1, stride=2, bias=False), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


class Pool(nn.Module):
    """The mean over all dimensions but those of batch and channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def residual(channels: int, dims: int = 2, width: int = 16) -> nn.Sequential:
    """A small residual network to ``4 * width`` features, whose first layer has a stride of 2."""
    return nn.Sequential(
        CONV[dims](channels, width, 3, stride=2, padding=1, bias=False),
        NORM[dims](width),
        nn.ReLU(),
        Block(width, 2 * width, dims),
        Block(2 * width, 4 * width, dims),
        Pool(),
    )


def plain(channels: int, dims: int = 2, width: int = 16) -> nn.Sequential:
    """A small plain network to ``4 * width`` features, at full resolution first."""
    layers: list[nn.Module] = []
    for stage in range(3):
        wide = width << stage
        for before, stride in ((wide // 2 if stage else channels, 2 if stage else 1), (wide, 1)):
            layers += [CONV[dims](before, wide, 3, stride, padding=1, bias=False), NORM[dims](wide), nn.ReLU()]
    return nn.Sequential(*layers, Pool())


def build_encoder(
    name: str,
    channels: int = 3,
    dims: int = 2,
    *,
    mean: float | Sequence[float] = 0.47,
    std: float | Sequence[float] = 0.25,
    size: Sequence[int] = (32, 32),
) -> tuple[nn.Sequential, int]:
    """Build an encoder that standardises its input, and return it with its number of features.

    Args:
        name: ``"residual"`` or ``"plain"``, small networks of 64 features; for images ``"small"``, a ResNet of four
            blocks and 308,000 parameters, ``"medium"``, of twice its width, or a network of timm's, of which a ResNet
            gets a stem for small images (3 x 3, without stride and pooling); or a function, ``"module:function"``, from
            a number of channels to a module that returns features, ``(B, F)``.
        channels: of the input.
        dims: its number of spatial dimensions.
        mean: of the input, a number or one of each channel.
        std: of the input, likewise.
        size: of the input, on which it is tried.

    Raises:
        ValueError: if there is no such encoder, or it does not take such an input.

    Examples:
        >>> encoder, features = build_encoder("residual", 6, dims=1, size=(100,))
        >>> encoder(torch.rand(2, 6, 100)).shape[1] == features
        True
    """
    net = _network(name, channels, dims)
    encoder = nn.Sequential(Standardise(mean, std, dims), net)
    try:
        with torch.no_grad():
            features = encoder.eval()(torch.zeros(2, channels, *size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        shape = f"(B, {', '.join(map(str, (channels, *size)))})"
        raise ValueError(f"Expected an `encoder` that takes `x`, {shape}, but {name} does not: {error}") from error
    if features.ndim != 2:
        raise ValueError(f"Expected an `encoder` to features (B, F), but got {tuple(features.shape)} of {name}.")
    return encoder.train(), features.shape[1]


def _network(name: str, channels: int, dims: int) -> nn.Module:
    if ":" in name:
        found = import_function(name)(channels)
        if not isinstance(found, nn.Module):
            raise ValueError(f"Expected `encoder` to make a torch module, but {name} returns {type(found).__name__}.")
        return found
    if name in ("residual", "plain"):
        return {"residual": residual, "plain": plain}[name](channels, dims)
    if dims != 2:
        raise ValueError(f"Expected `encoder` to be 'residual', 'plain' or a function for {dims} dims, not {name!r}.")
    import timm

    if name in ("small", "medium"):
        width = 16 if name == "small" else 32
        net: Any = timm.models.resnet.ResNet(
            timm.models.resnet.BasicBlock,  # type: ignore[arg-type]
            (1, 1, 1, 1),
            channels=tuple(width << stage for stage in range(4)),
            stem_width=width // 2,
            stem_type="deep",
            in_chans=channels,
            num_classes=0,
            zero_init_last=False,  # as identities the blocks need many epochs to begin
        )
    elif name in timm.list_models():
        net = timm.create_model(name, in_chans=channels, num_classes=0)
    else:
        raise ValueError(f"Expected `encoder` to be one of {', '.join(ENCODERS)} or of timm's, but got {name!r}.")
    if type(net) is timm.models.resnet.ResNet:
        stem: Any = net
        stem.conv1 = nn.Conv2d(channels, stem.bn1.num_features, 3, padding=1, bias=False)
        stem.maxpool = nn.Identity()
    return net
