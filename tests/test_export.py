"""Frozen viewmakers as programs of torch.export."""

import subprocess
import sys

import pytest
import torch

from viewaug import Viewmaker, distortion
from viewaug.perturbations import PERTURBATIONS

BATCH = torch.export.Dim("batch", min=2)
ALONE = """
import sys
sys.modules["viewaug"] = None  # as if it were not installed
import torch
program = torch.export.load(sys.argv[1]).module()
x = torch.rand(5, 3, 16, 16)
view = program(x)
size = (view - x).abs().mean((1, 2, 3))
assert ((size - 0.05).abs() < 1e-5).all(), size
assert not torch.equal(view, program(x))
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name not in ("gain", "filter", "kornia")])
def test_every_family_for_any_batch(name):
    viewmaker = Viewmaker(perturbation=name).requires_grad_(False)
    program = torch.export.export(viewmaker, (torch.rand(2, 3, 16, 16),), dynamic_shapes={"x": {0: BATCH}}).module()
    x = torch.rand(6, 3, 16, 16)
    torch.manual_seed(0)
    view = program(x)
    torch.manual_seed(0)
    torch.testing.assert_close(view, viewmaker(x), rtol=0, atol=1e-5)
    assert (distortion(x, view) <= 0.05 + 1e-6).all()


@pytest.mark.filterwarnings("ignore")
def test_without_this_package(tmp_path):
    viewmaker = Viewmaker().requires_grad_(False)
    program = torch.export.export(viewmaker, (torch.rand(2, 3, 16, 16),), dynamic_shapes={"x": {0: BATCH}})
    torch.export.save(program, tmp_path / "viewmaker.pt2")
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "viewmaker.pt2")], check=True, cwd=tmp_path)
