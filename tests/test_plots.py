"""What figures draw, read back from their axes."""

import numpy as np
import pytest
import torch

from viewaug import plots
from viewaug.plots import view_grid


def seeded(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def rows(x, views, **options):
    """The axes, a row each of the inputs and of every view and change."""
    axes = view_grid(x, views, **options).axes
    return [axes[i : i + len(x)] for i in range(0, len(axes), len(x))]


def pixels(ax) -> torch.Tensor:
    """The image of an axis, as (C, H, W) or (H, W)."""
    (image,) = ax.images
    drawn = torch.from_numpy(np.asarray(image.get_array()))
    return drawn.permute(2, 0, 1) if drawn.ndim == 3 else drawn


def curves(ax) -> torch.Tensor:
    return torch.from_numpy(np.stack([line.get_ydata() for line in ax.lines]))


@pytest.mark.parametrize("shape", [(3, 3, 8, 6), (1, 1, 8, 6), (3, 5, 8, 6), (2, 1, 20), (2, 12, 20), (2, 1, 4, 8, 6)])
@pytest.mark.parametrize("count", [1, 2])
def test_axes_and_labels(shape, count):
    x = seeded(*shape)
    grid = rows(x, [x] * count, amplify=2.5)
    assert [len(row) for row in grid] == [len(x)] * (1 + 2 * count)
    labels = ["input", "view", "change x2.5"]
    if count == 2:
        labels = ["input", "view 1", "change 1 x2.5", "view 2", "change 2 x2.5"]
    assert [row[0].get_ylabel() for row in grid] == labels
    assert not any(ax.get_ylabel() for row in grid for ax in row[1:])
    assert not any(len(ax.get_xticks()) + len(ax.get_yticks()) for row in grid for ax in row)


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255), (2, 2.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images(channels, value_range):
    low, high = value_range
    unit = seeded(2, channels, 8, 6)
    moved = [(unit + 0.1 * scale * (seeded(*unit.shape) - 0.5)).clamp(0, 1) for scale in (1, 2)]
    x, *views = (low + (high - low) * t for t in (unit, *moved))
    grid = rows(x, views, amplify=4, value_range=value_range)
    changes = [0.5 + 4 * (view - unit) for view in moved]
    for row, batch in zip(grid, (unit, moved[0], changes[0], moved[1], changes[1]), strict=True):
        for ax, expected in zip(row, batch, strict=True):
            torch.testing.assert_close(pixels(ax), expected.squeeze(0), rtol=0, atol=1e-5)
            assert ax.images[0].get_clim() == (0, 1)
            assert ax.images[0].get_cmap().name == "gray"
            assert ax.images[0].origin == "upper"


def test_large_changes_of_images_are_black_and_white():
    x = torch.full((1, 1, 2, 2), 0.5)
    view = x + torch.tensor([[-0.4, 0.0], [0.1, 0.4]])
    torch.testing.assert_close(pixels(rows(x, [view])[2][0]), torch.tensor([[0.0, 0.5], [1.0, 1.0]]))


@pytest.mark.parametrize(("channels", "value_range"), [(1, None), (3, None), (13, None), (13, (0, 1)), (2, (0, 1))])
def test_spectrograms_are_maps(channels, value_range):
    x = 7 * seeded(2, channels, 8, 6) - 3
    view = x + 0.1 * seeded(*x.shape)
    grid = rows(x, [view], amplify=3, value_range=value_range)
    check_maps(grid, x, view, 3)


def test_volumes_are_maps_of_the_middle():
    x = seeded(2, 2, 5, 8, 6)
    view = x + 0.1 * seeded(*x.shape)
    check_maps(rows(x, [view], amplify=3), x[:, :, 2], view[:, :, 2], 3)


def check_maps(grid, x, view, amplify):
    x, view = x.mean(1), view.mean(1)
    for i, (source, other) in enumerate(zip(x, view, strict=True)):
        low, high = source.min().item(), source.max().item()
        half = (high - low) / 2
        expected = ((source, (low, high)), (other, (low, high)), (amplify * (other - source), (-half, half)))
        for row, (values, limits) in zip(grid, expected, strict=True):
            torch.testing.assert_close(pixels(row[i]), values, rtol=0, atol=1e-5)
            assert row[i].images[0].get_clim() == pytest.approx(limits, rel=1e-5)
            assert row[i].images[0].origin == "lower"


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("value_range", [(-1, 1), None])
def test_waveforms_are_curves(channels, value_range):
    x = 4 * seeded(2, channels, 30) - 2
    view = x + 0.1 * seeded(*x.shape)
    grid = rows(x, [view], amplify=3, value_range=value_range)
    for row, batch in zip(grid, (x, view, 3 * (view - x)), strict=True):
        for ax, expected, source in zip(row, batch, x, strict=True):
            torch.testing.assert_close(curves(ax), expected, rtol=0, atol=1e-5)
            limit = 1.1 * source.abs().max().item()
            assert ax.get_ylim() == pytest.approx((-limit, limit))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_and_gradients(dtype):
    x = seeded(2, 3, 8, 6).to(dtype)
    view = x.clone().requires_grad_()
    grid = rows(x, [view])
    torch.testing.assert_close(pixels(grid[1][0]), x[0].float())
    assert (pixels(grid[2][0]) == 0.5).all()


@pytest.mark.parametrize("shape", [(1, 1, 20), (1, 1, 8, 6), (1, 2, 8, 6), (1, 1, 4, 8, 6)])
def test_constant_inputs_can_be_saved(tmp_path, shape):
    x = torch.zeros(shape)
    view_grid(x, [x], value_range=None).savefig(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000


X = torch.rand(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("x", "views", "options", "name"),
    [
        (X[:, 0, 0], [X[:, 0, 0]], {}, "`x`"),
        (X[None, None], [X[None, None]], {}, "`x`"),
        (X[:0], [X[:0]], {}, "`x`"),
        (X, [], {}, "`views`"),
        (X, [X[:1]], {}, "`views`"),
        (X[:, :2], [X], {}, "`views`"),
        (X, [X, X[..., :3]], {}, "`views`"),
        (X, [X], {"value_range": (1, 0)}, "`value_range`"),
    ],
)
def test_errors(x, views, options, name):
    with pytest.raises(ValueError, match=name):
        view_grid(x, views, **options)


def test_labels():
    x = torch.rand(2, 3, 4, 4)
    figure = view_grid(x, [x, x], labels=["warp", "blur"])
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["input", "warp", "change x5", "blur", "change x5"]
    figure = view_grid(x, [x, x], labels=["viewmaker", "crop+blur"], amplify=2)
    assert [ax.get_ylabel() for ax in figure.axes[:: len(x)]] == [
        "input",
        "viewmaker",
        "change x2",
        "crop+\nblur",
        "change x2",
    ]
    with pytest.raises(ValueError, match="`labels` of 2"):
        view_grid(x, [x, x], labels=["warp"])


def test_probability_histograms():
    p = torch.tensor([[0.05, 0.15], [0.95, 0.96]])
    found = {"learned": {"photo": p, "digit": p}, "noise": {"photo": p, "digit": 0 * p}}
    axes = plots.probability_histograms(found, {"photo": 0.1, "digit": 0.2}, bins=10).axes
    assert [ax.get_title() for ax in axes] == ["learned", "noise", "", ""]
    assert [ax.get_ylabel() for ax in axes] == ["photo", "", "digit", ""]
    heights = [[patch.get_height() for patch in ax.patches] for ax in axes]
    assert heights[0] == pytest.approx([0.25, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.5])
    assert heights[3] == pytest.approx([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert [ax.lines[0].get_xdata()[0] for ax in axes] == [0.1, 0.1, 0.2, 0.2]


def test_dropout_matrices():
    matrix = torch.tensor([[0.0, 0.9], [float("nan"), 0.25]])
    axes = plots.dropout_matrices({"a": matrix, "b": matrix.T}, ["x", "y"]).axes
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [
        ["0.00", "0.90", "-", "0.25"],
        ["0.00", "-", "0.90", "0.25"],
    ]
    assert [ax.get_title() for ax in axes] == ["a", "b"]


def test_sorted_views():
    x, views = seeded(3, 8, 6), seeded(9, 3, 8, 6)
    p = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.2, 0.8, 0.0, 1.0, 0.4])
    axes = plots.sorted_views(x, views, p, count=3, amplify=2).axes
    assert [ax.get_title() for ax in axes[:3]] == ["0.00", "0.40", "1.00"]
    for ax, index in zip(axes[3:6], (6, 8, 7), strict=True):
        torch.testing.assert_close(pixels(ax), views[index], rtol=0, atol=1e-5)
    assert len(plots.sorted_views(x, views[:2], p[:2]).axes) == 6  # fewer than asked for


def test_mask_shares():
    shares = torch.tensor([[0.2, 0.21], [0.9, float("nan")]])
    (ax,) = plots.mask_shares({"learned": shares}, area=0.3).axes
    assert ax.get_legend().get_texts()[0].get_text() == "learned, median 0.21"
    assert ax.lines[0].get_xdata()[0] == 0.3


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: plots.probability_histograms({}), "at least one method"),
        (lambda: plots.probability_histograms({"a": {}}), "same tasks"),
        (lambda: plots.probability_histograms({"a": {"x": X}, "b": {"y": X}}), "same tasks"),
        (lambda: plots.dropout_matrices({}, ["x"]), "at least one method"),
        (lambda: plots.dropout_matrices({"a": torch.eye(3)}, ["x", "y"]), r"shape \(2, 2\)"),
        (lambda: plots.sorted_views(X[0], X, torch.zeros(3)), "`probability` of 2 views"),
    ],
)
def test_errors_of_what_views_destroy(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("shape", [(2, 1, 20), (2, 1, 8, 8), (2, 3, 8, 8)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_training_that_diverged_can_be_drawn(shape, bad, tmp_path):
    x = torch.full(shape, bad)
    view_grid(x, [x]).savefig(tmp_path / "grid.png")
