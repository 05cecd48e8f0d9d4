"""Signals of other kinds than photographs and sounds: the same module, with other `channels` and `dims`."""

import math

import pytest
import torch
from torch import nn
from viewaug.examples import signals as example

import viewaug
from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker

# A wearable's readings, a satellite's bands, a scan; sizes that are neither equal nor even.
SIGNALS = {
    "series": ({"channels": 9, "dims": 1, "value_range": None}, (9, 101)),
    "bands": ({"channels": 13, "dims": 2}, (13, 17, 22)),
    "volume": ({"channels": 1, "dims": 3}, (1, 7, 10, 9)),
}
ENCODERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def signals(kind: str, count: int = 16) -> tuple[Viewmaker, torch.Tensor]:
    options, shape = SIGNALS[kind]
    torch.manual_seed(0)
    x = torch.rand(count, *shape) if options.get("value_range", (0, 1)) else torch.randn(count, *shape)
    return Viewmaker(**options, budget=0.05), x


@pytest.mark.parametrize("kind", SIGNALS)
def test_views(kind):
    viewmaker, x = signals(kind)
    noise = viewmaker.draw_noise(x, torch.Generator().manual_seed(0))
    view = viewmaker(x, noise)
    assert view.shape == x.shape
    assert torch.equal(view, viewmaker(x, noise))
    assert not torch.equal(view, viewmaker(x))
    torch.testing.assert_close(viewaug.distortion(x, view), torch.full((16,), 0.05))
    if viewmaker.value_range is not None:
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("kind", SIGNALS)
def test_viewmaker_learns(kind):
    """Against an encoder that does not: its loss grows."""
    viewmaker, x = signals(kind)
    viewmaker.budget /= 10  # so that noise alone does not make the views unrelated
    conv = ENCODERS[viewmaker.dims](viewmaker.channels, 16, 3, padding=1)
    encoder = nn.Sequential(conv, nn.ReLU(), nn.Flatten(2)).requires_grad_(False)
    augmentation = AdversarialAugmentation(viewmaker)
    optimizer = JointOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), viewmaker.parameters(), lr=3e-3)
    losses = []
    for _ in range(75):
        z0, z1 = (nn.functional.normalize(encoder(view).mean(2), dim=1) for view in augmentation.views(x))
        loss = nn.functional.cross_entropy(z0 @ z1.T / 0.05, torch.arange(len(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) > sum(losses[:5])


@pytest.mark.parametrize(("kind", "accuracy"), [("bands", 0.9), ("volume", 0.8)])
def test_example(kind, accuracy, capsys):
    assert example.main(["--signal", kind, "--steps", "60"]) > accuracy
    assert f"{kind}: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", SIGNALS)
def test_file(kind, tmp_path):
    viewmaker, x = signals(kind)
    viewaug.save(viewmaker, tmp_path / "viewmaker.safetensors")
    loaded = viewaug.load(tmp_path / "viewmaker.safetensors")
    noise = viewmaker.draw_noise(x)
    assert torch.equal(viewmaker(x, noise), loaded(x, noise))
