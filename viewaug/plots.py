"""Figures: inputs, their views, and what was changed."""

from collections.abc import Sequence

from torch import Tensor

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("viewaug.plots needs matplotlib: pip install 'viewaug[plots]'") from error


def view_grid(x: Tensor, views: Sequence[Tensor], *, amplify: float = 5.0) -> Figure:
    """Draw inputs, views of them, and the amplified differences, one column a sample.

    Args:
        x: images in [0, 1].
        views: one or more batches of views of them.
        amplify: factor of the differences, which are drawn around mid-grey.

    Shape:
        - x, each of `views`: ``(B, C, H, W)`` with 1 or 3 channels.

    Raises:
        ValueError: if `x` is not a batch of images, `views` is empty, or one is not of the shape of `x`.

    Examples:
        >>> x = torch.rand(4, 3, 8, 8)
        >>> figure = view_grid(x, [viewaug.Viewmaker()(x)])
        >>> len(figure.axes)  # inputs, views and differences
        12
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError(f"Expected `x` to have the shape (B, 1 or 3, H, W) with B >= 1, but got {tuple(x.shape)}.")
    if not views:
        raise ValueError("Expected `views` to hold at least one batch, but it is empty.")
    rows = [("input", x)]
    for i, view in enumerate(views, start=1):
        if view.shape != x.shape:
            raise ValueError(
                f"Expected `views` to have the shape of `x`, {tuple(x.shape)}, but got {tuple(view.shape)}."
            )
        number = f" {i}" if len(views) > 1 else ""
        rows += [(f"view{number}", view), (f"change{number} x{amplify:g}", 0.5 + amplify * (view - x))]

    figure = Figure(figsize=(0.9 + len(x), len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for (label, batch), line in zip(rows, axes, strict=True):
        for image, ax in zip(batch.detach().float().cpu().clamp(0, 1), line, strict=True):
            ax.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(label, fontsize=8)
    return figure
