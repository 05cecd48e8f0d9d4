"""On the accelerator, where there is one, as on the CPU: data to the bit, views and probes but for rounding."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from viewaug.examples.multitask.backgrounds import Images
from viewaug.examples.multitask.mixtures import MIXTURES, Mixed
from viewaug.examples.multitask.noises import Noises
from viewaug.examples.multitask.overlays import OVERLAYS, Overlaid
from viewaug.examples.multitask.speech import Speech

import viewaug
from viewaug.probes import Probe

SCRIPT = Path(__file__).parents[1] / "examples" / "accelerator.sh"
DEVICES = [torch.device("cpu")]
if torch.accelerator.is_available():
    DEVICES.append(torch.accelerator.current_accelerator())


@pytest.fixture(params=DEVICES, ids=str)
def device(request):
    return request.param


def overlaid(overlay: str) -> Overlaid:
    torch.manual_seed(0)
    images = Images(torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 10)
    return Overlaid(images, overlay, train=True, redraw=True, shared_overlay_probability=0.5)


def mixed(mixture: str) -> Mixed:
    torch.manual_seed(0)
    speech = Speech([torch.randn(300 + 10 * i) for i in range(12)], {"digit": torch.arange(12) % 3})
    noise = Noises([torch.randn(2000 + i) for i in range(4)], torch.arange(4) % 2)
    return Mixed(speech, noise, mixture, length=500, train=True, shared_noise_probability=0.5)


@pytest.mark.parametrize(("make", "name"), [*((overlaid, o) for o in OVERLAYS), *((mixed, m) for m in MIXTURES)])
def test_data_are_the_same_to_the_bit(make, name, device):
    expected, found = (make(name).to(where).__getitems__(range(12)) for where in ("cpu", device))
    assert found["views"][0].device.type == device.type
    for key, value in expected.items():
        pairs = zip(value, found[key], strict=True) if key == "views" else [(value, found[key])]
        assert all(torch.equal(a, b.cpu()) for a, b in pairs)


@pytest.mark.parametrize("perturbation", ["additive", "mix", "crop", "colour"])
def test_views(perturbation, device):
    """Of the same noise; the gradient comes back."""
    torch.manual_seed(0)
    viewmaker, x = viewaug.Viewmaker(perturbation=perturbation), torch.rand(4, 3, 32, 32)
    noise = viewmaker.draw_noise(x)
    expected = viewmaker(x, noise).detach()
    found = viewmaker.to(device)(x.to(device), tuple(part.to(device) for part in noise))
    torch.testing.assert_close(found.detach().cpu(), expected, atol=1e-3, rtol=0)
    found.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in viewmaker.parameters())


def test_probes(device):
    torch.manual_seed(0)
    label = torch.arange(200) % 3
    x = torch.randn(200, 8) + label[:, None]
    expected, found = (Probe.fit(nn.Identity(), x.to(where), {"kind": label})(x.to(where)) for where in ("cpu", device))
    torch.testing.assert_close(found["kind"].softmax(1).cpu(), expected["kind"].softmax(1), atol=2e-3, rtol=0)


def test_the_script_for_an_accelerator_goes_on(tmp_path):
    """A step that is done is passed over, one that fails is named, and one whose time is up ends the call."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n'
        f'case "$*" in *benchmarks.memory*) exit 1;; *--seeds\\ 1*) test -e {tmp_path}/later || exit 124;; esac\n'
    )
    python.chmod(0o755)
    command = ["bash", str(SCRIPT), str(tmp_path / "out"), "1"]

    def run() -> tuple[list[str], str]:
        calls.write_text("")
        environment = os.environ | {"PYTHON": str(python), "REHEARSE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return calls.read_text().splitlines(), done.stdout

    first, said = run()
    assert "memory failed" in said
    assert "time is up in paper-learned" in said
    assert "viewaug.cli doctor" in first[0]
    assert "--preset quick --accelerator cpu" in first[-1]
    again, _ = run()
    assert len(again) == 2
    assert "benchmarks.memory" in again[0]  # what fails is tried again
    assert "--methods learned " in again[1]
    (tmp_path / "later").touch()
    last, _ = run()
    methods = [line.split("--methods ")[1].split()[0] for line in last[1:]]
    assert methods == ["learned", "expert", "learned:blend+additive@steered"]
    assert len(run()[0]) == 1
