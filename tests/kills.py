"""Kill runs at random moments, again and again: in the end there is what a run without a kill leaves, bit for bit.

python tests/kills.py [compare] [grid] [lightning] [save] [--kills 50], or make kills
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import viewaug

TIMES = ("seconds",)  # in cells, which no two runs share
LIGHTNING = """
import sys, torch
from pathlib import Path
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from viewaug.adapters.lightning import ViewmakerCallback
import viewaug

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, 2), torch.nn.Flatten(), torch.nn.LazyLinear(4))
        self.net(torch.zeros(1, 1, 8, 8))
    def training_step(self, batch, index):
        return torch.nn.functional.mse_loss(self.net(batch[0]), self.net(batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

out = Path(sys.argv[1])
seed_everything(0)
x = torch.rand(32, 1, 8, 8)
loader = torch.utils.data.DataLoader([[a, a] for a in x], batch_size=4)
callback = ViewmakerCallback(viewaug.Viewmaker(1, width=4, depth=1), views=[0, 1])
keep = ModelCheckpoint(out / "kept", save_last=True, every_n_epochs=1)
last = out / "kept" / "last.ckpt"
trainer = Trainer(max_epochs=40, accelerator="cpu", callbacks=[callback, keep], logger=False,
                  enable_progress_bar=False, enable_model_summary=False)
module = Module()
trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
viewaug.save(callback.viewmaker, out / "viewmaker.safetensors")
"""
SAVE = """
import sys, torch, viewaug
from pathlib import Path
out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
torch.manual_seed(0)
viewmaker = viewaug.Viewmaker(1, width=64)
for k in range(3000):
    torch.nn.init.constant_(viewmaker.generator.stem.bias, k)
    viewaug.save(viewmaker, out / "viewmaker.safetensors")
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is run, but for where to."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    x = rng.random((200, 1, 32), dtype=np.float32) + 0.3 * label[:, None, None].astype("float32")
    np.savez(folder / "data.npz", x=x, label=label)
    compare = ["compare", "--data", str(folder / "data.npz"), "--methods", "none", "noise", "learned", "--seeds", "3"]
    compare += ["--trials", "2", "--steps", "40", "--workers", "1", "--out"]
    grid = ["viewaug.examples.multitask_image", "--preset", "quick", "--methods", "noise", "learned", "--epochs", "6"]
    return {
        "compare": ["-m", "viewaug.cli", *compare],
        "grid": ["-m", *grid, "--workers", "1", "--out"],
        "lightning": ["-c", LIGHTNING],
        "save": ["-c", SAVE],
    }


def start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that all its processes can be killed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *command, str(out)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def end(process: subprocess.Popen[bytes], timeout: float | None = None) -> None:
    """Wait until a command has ended, as it should."""
    _, error = process.communicate(timeout=timeout)
    assert process.returncode == 0, error.decode()


def contents(out: Path) -> dict[str, Any]:
    """Return what a run left, without times."""

    def timeless(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: timeless(value) for name, value in part.items() if name not in TIMES}
        return [timeless(value) for value in part] if isinstance(part, list) else part

    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        if file.suffix == ".json" and file.parent.name == "cells":
            found[file.name] = timeless(json.loads(file.read_text()))
        elif file.suffix == ".safetensors":
            viewmaker = viewaug.load(file)
            weights = {name: value.numpy().tobytes() for name, value in viewmaker.state_dict().items()}
            found[file.name] = viewmaker.config, weights  # bytes of the file are in no fixed order
    return found


def run(name: str, command: list[str], folder: Path, kills: int, seed: int) -> None:
    """Run once in peace, then be killed so many times; raise an AssertionError where something differs."""
    draw = random.Random(seed)
    began = time.monotonic()
    end(start(command, folder / "whole"))
    longest = time.monotonic() - began
    expected = contents(folder / "whole")
    assert expected
    done = ends = 0
    fresh(folder)
    while done < kills:
        process = start(command, folder / "killed")
        try:
            end(process, draw.uniform(0.2, 1.0) * longest)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done += 1
            contents(folder / "killed")  # no file is cut off
            continue
        compare(expected, contents(folder / "killed"))
        ends += 1
        fresh(folder)
    end(start(command, folder / "killed"))
    compare(expected, contents(folder / "killed"))
    print(f"{name}: {done} kills, {ends + 1} runs to the end, {len(expected)} files as without a kill", flush=True)


def compare(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise an AssertionError that names what differs."""
    odd = [name for name in expected | found if expected.get(name) != found.get(name)]
    assert not odd, f"other results after kills: {', '.join(odd)}"


def fresh(folder: Path) -> None:
    """Begin anew, with the plan of the run without a kill: it holds prices, which no two runs share."""
    shutil.rmtree(folder / "killed", ignore_errors=True)
    (folder / "killed").mkdir()
    if (folder / "whole" / "plan.json").exists():
        shutil.copy(folder / "whole" / "plan.json", folder / "killed" / "plan.json")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["compare", "grid", "lightning", "save"]
    parser.add_argument("what", nargs="*", default=names, help=", ".join(names))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.what:
        with tempfile.TemporaryDirectory() as folder:
            run(name, commands(Path(folder))[name], Path(folder), options.kills, options.seed)


if __name__ == "__main__":
    main()
