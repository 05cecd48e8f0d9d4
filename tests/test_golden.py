"""Short trainings whose losses are kept, so that a change of the mathematics shows.

python tests/test_golden.py writes them anew: for a change that is meant, with a word on it in CHANGELOG.md.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from viewaug import AdversarialAugmentation, BudgetController, JointOptimizer, Viewmaker

FILE = Path(__file__).with_name("golden_runs.json")
# Of 12 steps, on other processors: rounding grows; a change of a formula grows more.
TOLERANCE = 1e-3
RUNS = {
    "images, additive": ({"channels": 3, "budget": 0.1}, (3, 16, 16)),
    "images, a sequence": (
        {"channels": 3, "perturbation": [{"name": "mix", "budget": None}, "spectral", "colour"], "budget": 0.1},
        (3, 16, 16),
    ),
    "series, steered masks": (
        {"channels": 4, "dims": 1, "value_range": None, "perturbation": "mask", "budget": None},
        (4, 64),
    ),
}


def train(options, size) -> list[float]:
    """Return the losses of 12 steps of SimCLR on noise with some structure, and what a controller made of the views."""
    torch.manual_seed(0)
    dims = len(size) - 1
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    encoder = nn.Sequential(conv(size[0], 16, 3, 2, 1), nn.ReLU(), conv(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(2))
    viewmaker = Viewmaker(**options)
    augmentation = AdversarialAugmentation(viewmaker)
    optimizer = JointOptimizer(torch.optim.Adam(encoder.parameters(), 2e-3), viewmaker.parameters(), lr=3e-3)
    controller = BudgetController(viewmaker, unrelated=torch.tensor(31.0).log().item(), target=0.2)
    x = torch.rand(32, size[0], *(4,) * dims)
    x = nn.functional.interpolate(x, size[1:], mode=("linear", "bilinear")[dims - 1])
    losses = []
    for _ in range(12):
        z = [nn.functional.normalize(encoder(view).mean(2), dim=1) for view in augmentation.views(x)]
        loss = nn.functional.cross_entropy(z[0] @ z[1].T / 0.1, torch.arange(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss.detach())
        losses.append(round(loss.item(), 5))
    return [*losses, round(controller.value, 5)]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_that_were_kept(name):
    assert train(*RUNS[name]) == pytest.approx(json.loads(FILE.read_text())[name], rel=TOLERANCE)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(found := {name: train(*run) for name, run in RUNS.items()}, indent=1) + "\n")
    FILE.write_text(json.dumps(found, indent=1) + "\n")
