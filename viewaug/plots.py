"""Figures: inputs, their views, what was changed, and which labels that destroys."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
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
        numbered = re.fullmatch(r"view( \d+)?", label)
        name = f"change{numbered[1] or ''}" if numbered else "change"
        rows += [(label, view, False), (f"{name} x{amplify:g}", amplify * (view - x), True)]

    wide = 1.0 if _is_image(x[0], value_range) else 2.0
    figure = Figure(figsize=(0.9 + wide * len(x), len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for (label, batch, change), line in zip(rows, axes, strict=True):
        for signal, source, ax in zip(batch, x, line, strict=True):
            draw_signal(ax, signal, source, value_range, change=change)
        line[0].set_ylabel(label.replace("+", "+\n"), fontsize=8 if len(label) < 12 else 6)
    return figure


def draw_signal(ax: Any, signal: Tensor, source: Tensor, value_range: ValueRange, *, change: bool = False) -> None:
    """Draw one signal on axes, as :func:`view_grid` does.

    Args:
        ax: Matplotlib's axes.
        signal: ``(C, *spatial)``.
        source: the input that it is a view of, whose scale it has.
        value_range: as in :func:`view_grid`.
        change: whether it is a difference.
    """
    signal, source = _ready(signal), _ready(source)
    if _is_image(signal, value_range):
        _draw_image(ax, signal, change, value_range)
    elif signal.ndim == 2:
        _draw_curves(ax, signal, source)
    else:
        _draw_map(ax, signal, change, source)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _is_image(signal: Tensor, value_range: ValueRange) -> bool:
    return signal.ndim == 3 and signal.shape[0] in (1, 3) and value_range is not None


def probability_histograms(
    probabilities: Mapping[str, Mapping[str, Tensor]], thresholds: Mapping[str, float] | None = None, bins: int = 20
) -> Figure:
    """Draw histograms of the probability of the correct label over views, a row a task, a column a method.

    Compare Feature Dropout (Tamkin et al., NeurIPS 2023, figure 2).

    Args:
        probabilities: for each method's name and each task's name the probabilities, of any shape.
        thresholds: for each task's name, below which a label counts as destroyed; drawn as a line.
        bins: how many.

    Examples:
        >>> figure = probability_histograms({"noise": {"digit": torch.rand(50, 8)}}, {"digit": 0.1})
        >>> len(figure.axes)
        1
    """
    if not probabilities:
        raise ValueError("Expected `probabilities` of at least one method, but got none.")
    tasks = list(next(iter(probabilities.values())))
    if not tasks or any(list(found) != tasks for found in probabilities.values()):
        raise ValueError("Expected `probabilities` of the same tasks, at least one, for every method.")
    figure = Figure(figsize=(0.6 + 1.9 * len(probabilities), 0.5 + 1.4 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), len(probabilities), squeeze=False, sharex=True, sharey="row")
    for column, (method, found) in enumerate(probabilities.items()):
        axes[0, column].set_title(method, fontsize=9)
        for ax, task in zip(axes[:, column], tasks, strict=True):
            values = _ready(found[task]).flatten()
            ax.hist(values.numpy(), bins=bins, range=(0, 1), weights=(values * 0 + 1 / len(values)).numpy())
            if thresholds is not None:
                ax.axvline(thresholds[task], color="black", linewidth=0.8, linestyle=":")
            ax.tick_params(labelsize=7)
    for ax, task in zip(axes[:, 0], tasks, strict=True):
        ax.set_ylabel(task, fontsize=9)
    figure.supxlabel("probability of the correct label", fontsize=8)
    figure.supylabel("share of views", fontsize=8)
    return figure


def dropout_matrices(matrices: Mapping[str, Tensor], tasks: Sequence[str]) -> Figure:
    """Draw how often each label survives the views that drop another one, a matrix a method.

    Args:
        matrices: for each method's name the ``dropout`` of :class:`viewaug.metrics.FeatureDropout`, ``(T, T)``.
        tasks: the names of the T tasks.

    Examples:
        >>> figure = dropout_matrices({"learned": torch.tensor([[0.0, 0.9], [0.8, 0.0]])}, ["photo", "digit"])
        >>> figure.axes[0].texts[1].get_text()
        '0.90'
    """
    if not matrices:
        raise ValueError("Expected `matrices` of at least one method, but got none.")
    size = len(tasks)
    figure = Figure(figsize=(0.8 + (0.9 + 0.6 * size) * len(matrices), 1.0 + 0.6 * size), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    for ax, (method, matrix) in zip(axes, matrices.items(), strict=True):
        if matrix.shape != (size, size):
            raise ValueError(f"Expected `matrices` of shape ({size}, {size}), but got {tuple(matrix.shape)}.")
        values = _ready(matrix)
        ax.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=1)
        for row in range(size):
            for column in range(size):
                value = values[row, column].item()
                text = "-" if math.isnan(value) else f"{value:.2f}"
                ax.text(column, row, text, ha="center", va="center", color="white" if value > 0.6 else "black")
        ax.set_title(method, fontsize=9)
        ax.set_xticks(range(size), tasks, fontsize=8)
        ax.set_yticks(range(size), tasks, fontsize=8)
    axes[0].set_ylabel("views that drop", fontsize=8)
    figure.supxlabel("survival of", fontsize=8)
    return figure


def sorted_views(
    x: Tensor,
    views: Tensor,
    probability: Tensor,
    *,
    count: int = 8,
    amplify: float = 5.0,
    value_range: ValueRange = (0.0, 1.0),
) -> Figure:
    """Draw views of one input from those that destroy its label to those that keep it, and their differences.

    Args:
        x: the input, ``(C, *spatial)``.
        views: views of it, ``(V, C, *spatial)``.
        probability: that of the correct label on each of them, ``(V,)``.
        count: how many to draw, evenly spaced in the order.
        amplify: as in :func:`view_grid`.
        value_range: as in :func:`view_grid`.

    Examples:
        >>> figure = sorted_views(torch.rand(3, 8, 8), torch.rand(20, 3, 8, 8), torch.linspace(0, 1, 20), count=5)
        >>> [ax.get_title() for ax in figure.axes[:5]]
        ['0.00', '0.26', '0.53', '0.74', '1.00']
    """
    if probability.shape != views.shape[:1]:
        raise ValueError(
            f"Expected `probability` of {len(views)} views, ({len(views)},), but got {tuple(probability.shape)}."
        )
    places = torch.linspace(0, len(views) - 1, min(count, len(views))).round().long()
    picked = probability.argsort()[places]
    figure = view_grid(
        x.expand(len(picked), *x.shape), [views[picked]], amplify=amplify, value_range=value_range, labels=["view"]
    )
    for ax, value in zip(figure.axes, probability[picked].tolist(), strict=False):
        ax.set_title(f"{value:.2f}", fontsize=8)
    return figure


def mask_shares(shares: Mapping[str, Tensor], area: float) -> Figure:
    """Draw how much of the views' change lies on a mask, method by method.

    Args:
        shares: for each method's name what :func:`viewaug.metrics.mask_share` returned, of any shape.
        area: the mask's own share of the signal, which evenly spread changes would have.

    Examples:
        >>> figure = mask_shares({"noise": torch.linspace(0, 1, 101)}, area=0.1)
        >>> figure.axes[0].get_legend().get_texts()[0].get_text()
        'noise, median 0.50'
    """
    figure = Figure(figsize=(4.5, 2.4), layout="constrained")
    ax = figure.subplots()
    for method, share in shares.items():
        values = _ready(share).flatten()
        values = values[~values.isnan()]
        weights = values * 0 + 1 / max(len(values), 1)
        label = f"{method}, median {values.median():.2f}"
        ax.hist(values.numpy(), bins=40, range=(0, 1), weights=weights.numpy(), histtype="step", label=label)
    ax.axvline(area, color="black", linewidth=0.8, linestyle=":")
    ax.set_xlabel("share of the change on the mask", fontsize=8)
    ax.set_ylabel("share of views", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7)
    return figure


def magnitude_histograms(
    magnitudes: Mapping[str, tuple[Tensor, Tensor]], *, columns: int = 4, most: int = 24, bins: int = 30
) -> Figure:
    """Draw histograms of what views do beside what random ones do, one pair of axes a magnitude.

    Args:
        magnitudes: for each name those of learned and of random views, of any shape.
        columns: pairs of axes in a row.
        most: how many are drawn, the first ones.
        bins: of each histogram.

    Examples:
        >>> figure = magnitude_histograms({"rotation [°]": (torch.rand(50), torch.rand(50) - 0.5)})
        >>> figure.axes[0].get_title()
        'rotation [°]'
    """
    if not magnitudes:
        raise ValueError("Expected `magnitudes` of at least one name, but got none.")
    drawn = list(magnitudes.items())[:most]
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(2.4 * columns, 0.4 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (name, pair) in zip(axes, drawn, strict=False):
        values = [_finite(_ready(part)).flatten() for part in pair]
        low, high = (end.item() for end in torch.cat(values).aminmax())
        for part, label in zip(values, ("learned", "random twin"), strict=True):
            weights = (part * 0 + 1 / len(part)).numpy()
            ends = (low, max(high, low + 1e-6 * (1 + abs(low))))
            ax.hist(part.numpy(), bins=bins, range=ends, weights=weights, histtype="step", label=label)
        ax.set_title(name.replace(": ", ":\n"), fontsize=7)
        ax.tick_params(labelsize=6)
        ax.set_yticks([])
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    axes[0].legend(fontsize=6)
    return figure


def _finite(x: Tensor) -> Tensor:
    """What limits can be taken of: a training that diverged has to be seen, not to end."""
    return x.nan_to_num(0.0, 0.0, 0.0)


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
    low, high = (value.item() for value in _finite(source.mean(0)).aminmax())
    limits = ((low - high) / 2, (high - low) / 2) if change else (low, high)
    colours = "RdBu_r" if change else "magma"
    ax.imshow(signal.mean(0).numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto")


def _draw_curves(ax: Any, signal: Tensor, source: Tensor) -> None:
    """Draw one curve a channel, with the limits of the input."""
    size = max(_finite(source).abs().max().item(), 1e-12)
    ax.plot(signal.T.numpy(), linewidth=0.5)
    ax.set_ylim(-1.1 * size, 1.1 * size)
