"""Files of format version 1, which viewaug 0.1 wrote, give the views that they gave there.

``tests/version1`` holds a file of each family, and beside it an input, its noise and the view that 0.1 made of them.
The original network is too large for that; its weights are a formula.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import viewaug
from viewaug.version1 import Viewmaker1

FOLDER = Path(__file__).parent / "version1"
NAMES = sorted(file.name.removesuffix("-view.safetensors") for file in FOLDER.glob("*-view.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_views_of_version_1(name, tmp_path):
    kept = FOLDER / f"{name}-view.safetensors"
    tensors = load_file(kept)
    file = FOLDER / f"{name}.safetensors"
    if not file.exists():
        file = tmp_path / file.name
        save_file(formula_weights(kept), file, {"viewaug": header(kept)})
    assert json.loads(header(file))["version"] == 1
    viewmaker = viewaug.load(file)
    noise = tuple(tensors[key] for key in sorted(tensors) if key.startswith("noise"))
    # Bit for bit where convolutions round as they did on the machine that wrote the file.
    torch.testing.assert_close(viewmaker(tensors["x"], noise), tensors["view"], rtol=0, atol=1e-6)


def header(file: Path) -> str:
    with safe_open(file, "pt") as opened:
        return opened.metadata()["viewaug"]


def formula_weights(kept: Path) -> dict[str, torch.Tensor]:
    """The weights ``sin(0.7 i + k) / sqrt(fan_in)`` of the k-th parameter."""
    config = json.loads(header(kept))["config"]
    weights = Viewmaker1(**config).state_dict()
    for k, (name, value) in enumerate(weights.items()):
        wave = torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + k).reshape(value.shape)
        weights[name] = (wave / max(1, value[0].numel()) ** 0.5).float()
    return weights
