"""Figures: inputs, their views, and what was changed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from viewaug.budget import ValueRange, check_value_range

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("viewaug.plots needs matplotlib: pip install 'viewaug[plots]'") from error


def view_grid(
    x: Tensor,
    views: Sequence[Tensor],
    *,
    amplify: float = 5.0,
    value_range: ValueRange = (0.0, 1.0),
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draw inputs, views of them, and the amplified differences, one column a sample.

    Waveforms and series are drawn as curves; images of one or three channels as such, if they have a value range; and
    spectrograms and all else as maps of the mean channel, of volumes in the middle. A column has one scale.

    Args:
        x: the inputs.
        views: one or more batches of views of them.
        amplify: factor of the differences.
        value_range: ``(low, high)`` of an image, black and white; None for a spectrogram.
        labels: what to call each of `views`; by default they are numbered.

    Shape:
        - x, each of `views`: ``(B, C, *spatial)`` with one, two or three spatial dimensions.

    Raises:
        ValueError: if `x` is not such a batch, `views` is empty, one is not of the shape of `x`, or there are not as
            many `labels`.

    Examples:
        >>> x = torch.rand(4, 3, 8, 8)
        >>> figure = view_grid(x, [viewaug.Viewmaker()(x)])
        >>> len(figure.axes)  # inputs, views and differences
        12
    """
    if not 3 <= x.ndim <= 5 or not len(x):
        raise ValueError(
            f"Expected `x` to have the shape (B, C, T), (B, C, H, W) or (B, C, D, H, W) with B >= 1, "
            f"but got {tuple(x.shape)}."
        )
    check_value_range(value_range)
    if not views:
        raise ValueError("Expected `views` to hold at least one batch, but it is empty.")
    if labels is None:
        labels = [f"view {i}" for i in range(1, len(views) + 1)] if len(views) > 1 else ["view"]
    if len(labels) != len(views):
        raise ValueError(f"Expected `labels` of {len(views)} views, but got {len(labels)}.")
    rows = [("input", x, False)]
    for label, view in zip(labels, views, strict=True):
        if view.shape != x.shape:
            raise ValueError(
                f"Expected `views` to have the shape of `x`, {tuple(x.shape)}, but got {tuple(view.shape)}."
            )
        name = label.replace("view", "change") if label.startswith("view") else "change"
        rows += [(label, view, False), (f"{name} x{amplify:g}", amplify * (view - x), True)]

    image = x.ndim == 4 and x.shape[1] in (1, 3) and value_range is not None
    wide = 1.0 if image else 2.0
    figure = Figure(figsize=(0.9 + wide * len(x), len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for (label, batch, change), line in zip(rows, axes, strict=True):
        for signal, source, ax in zip(_ready(batch), _ready(x), line, strict=True):
            if image:
                _draw_image(ax, signal, change, value_range)
            elif x.ndim == 3:
                _draw_curves(ax, signal, source)
            else:
                _draw_map(ax, signal, change, source)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(label, fontsize=8)
    return figure


def _ready(x: Tensor) -> Tensor:
    return x.detach().float().cpu()


def _draw_image(ax: Any, signal: Tensor, change: bool, value_range: ValueRange) -> None:
    """Draw an image, or a change around mid-grey."""
    low, high = value_range or (0.0, 1.0)
    unit = signal / (high - low) + 0.5 if change else (signal - low) / (high - low)
    ax.imshow(unit.clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)


def _draw_map(ax: Any, signal: Tensor, change: bool, source: Tensor) -> None:
    """Draw the mean channel, low frequencies below, in the colours of its input's range; a change around white."""
    signal, source = (s[:, s.shape[1] // 2] if s.ndim == 4 else s for s in (signal, source))
    low, high = (value.item() for value in source.mean(0).aminmax())
    limits = ((low - high) / 2, (high - low) / 2) if change else (low, high)
    colours = "RdBu_r" if change else "magma"
    ax.imshow(signal.mean(0).numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto")


def _draw_curves(ax: Any, signal: Tensor, source: Tensor) -> None:
    """Draw one curve a channel, with the limits of the input."""
    size = max(source.abs().max().item(), 1e-12)
    ax.plot(signal.T.numpy(), linewidth=0.5)
    ax.set_ylim(-1.1 * size, 1.1 * size)
