"""Kill runs at random moments, again and again: in the end there is what a run without a kill leaves, bit for bit.

python tests/kills.py [compare] [grid] [lightning] [save] [diagnose] [--on one two full] [--kills 50], or make kills

On a folder there is one process; or there are two, of which one is killed, or both; or one on a full disk, a tmpfs of
random size, which makes it end with one line unless it is killed before. Then the disk grows, and the run goes on.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked import Forked
from PIL import Image
from safetensors import safe_open

import viewaug
from viewaug.probes import Probe, save_probe

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
trainer = Trainer(max_epochs=15, accelerator="cpu", callbacks=[callback, keep], logger=False,
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
for k in range(1000):
    torch.nn.init.constant_(viewmaker.generator.stem.bias, k)
    viewaug.save(viewmaker, out / "viewmaker.safetensors")
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is run, but for where to."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    x = rng.random((200, 1, 32), dtype=np.float32) + 0.3 * label[:, None, None].astype("float32")
    np.savez(folder / "data.npz", x=x, label=label)
    compare = ["compare", "--data", str(folder / "data.npz"), "--methods", "none", "noise", "learned", "--seeds", "2"]
    compare += ["--trials", "2", "--steps", "20", "--workers", "1", "--probes", "--out"]
    grid = ["viewaug.examples.multitask_image", "--preset", "quick", "--methods", "noise", "learned", "--epochs", "3"]
    checkpoints = [str(folder / f"{name}.safetensors") for name in ("a", "b", "c")]
    for file in checkpoints:
        viewaug.save(viewaug.Viewmaker(1, dims=1, width=8, value_range=None), file)
    probe = Probe.fit(torch.nn.Flatten(), torch.from_numpy(x), {"label": torch.from_numpy(label)})
    save_probe(probe, folder / "probe.pt2", torch.from_numpy(x))
    diagnose = ["diagnose", "--checkpoint", *checkpoints, "--data", str(folder / "data.npz"), "--trust"]
    diagnose += ["--probe", str(folder / "probe.pt2"), "--out"]
    return {
        "compare": ["-m", "viewaug.cli", *compare],
        "grid": ["-m", *grid, "--workers", "1", "--out"],
        "lightning": ["-c", LIGHTNING],
        "save": ["-c", SAVE],
        "diagnose": ["-m", "viewaug.cli", *diagnose],
    }


def start(command: list[str], out: Path) -> Forked:
    """Start a command."""
    return Forked([*command, out])


def end(process: Forked) -> None:
    """Wait until a command has ended, as it should."""
    result = process.result()
    assert not result.returncode, result.stderr


def contents(out: Path) -> dict[str, Any]:
    """Return what a run left, without times; raise where a file is cut off."""

    def timeless(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: timeless(value) for name, value in part.items() if name not in TIMES}
        return [timeless(value) for value in part] if isinstance(part, list) else part

    found: dict[str, Any] = {}
    for file in sorted(out.rglob("[!.]*")):  # temporary names begin with a point
        if file.suffix == ".json" and file.name != "plan.json":
            found[file.name] = timeless(json.loads(file.read_text()))
        elif file.suffix == ".safetensors":
            with safe_open(file, "np") as opened:  # bytes of the file are in no fixed order
                weights = {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
                found[file.name] = opened.metadata(), weights
        elif file.suffix in (".pt2", ".ckpt"):
            with zipfile.ZipFile(file) as archive:
                assert archive.testzip() is None, f"{file} is cut off"
        elif file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
    return found


class Trial:
    """A command, what it leaves in peace, and a folder to disturb it in."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.folder, self.draw = name, folder, random.Random(seed)
        self.command = commands(folder)[name]
        self.whole, self.killed = folder / "whole", folder / "killed"
        began = time.monotonic()
        end(start(self.command, self.whole))
        self.longest = time.monotonic() - began
        self.expected = contents(self.whole)
        assert self.expected
        self.killed.mkdir()

    def fresh(self) -> None:
        """Begin anew, with the plan of the run without a kill: it holds prices, which no two runs share."""
        for place in self.killed.iterdir():
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        if (self.whole / "plan.json").exists():
            shutil.copy(self.whole / "plan.json", self.killed)

    def check(self) -> None:
        """Raise an AssertionError that names what differs."""
        found = contents(self.killed)
        odd = [name for name in self.expected | found if self.expected.get(name) != found.get(name)]
        assert not odd, f"other results after kills: {', '.join(odd)}"

    def check_error(self, error: str) -> None:
        """Raise an AssertionError unless an error says that the disk is full, a command's without a trace."""
        assert "No space left on device" in error.splitlines()[-1], error
        assert self.command[0] == "-c" or "Traceback" not in error, error

    def on_a_folder(self, processes: int, kills: int) -> str:
        """Start processes on one folder, and kill one or all of them, until there were so many kills."""
        done = ends = 0
        self.fresh()
        while done < kills:
            running = [start(self.command, self.killed) for _ in range(processes)]
            doomed = self.draw.sample(running, self.draw.randint(1, processes))
            time.sleep(self.draw.uniform(0.02, 1.0) * self.longest)
            killed = [process for process in doomed if not process.wait(0)]
            for process in killed:
                process.kill()
            done += len(killed)
            contents(self.killed)
            survivors = [process for process in running if process not in killed]
            for process in survivors:
                end(process)
            if survivors:
                self.check()
                ends += 1
                self.fresh()
        end(start(self.command, self.killed))
        self.check()
        return f"{done} kills, {ends + 1} runs to the end"

    def on_a_full_disk(self, kills: int) -> str:
        """Run on a disk that is too small, and then on the same one when it has grown."""
        size = sum(file.stat().st_size for file in self.whole.rglob("*") if file.is_file())
        done = full = 0
        for _ in range(kills):
            with disk(self.killed) as resize:
                self.fresh()
                used = shutil.disk_usage(self.killed).used
                resize(used + self.draw.randrange(4096, size))
                process = start(self.command, self.killed)
                if not process.wait(self.draw.uniform(0.5, 2.0) * self.longest):
                    done += 1
                    process.kill()
                elif (result := process.result()).returncode:
                    full += 1
                    self.check_error(result.stderr)
                contents(self.killed)
                resize(2**30)
                end(start(self.command, self.killed))
                self.check()
        return f"{full} ends by a full disk, {done} kills"


@contextmanager
def disk(place: Path) -> Iterator[Callable[[int], None]]:
    """Mount a tmpfs, in a namespace where that is allowed, and give what sets its size."""
    mount = ["mount", "-t", "tmpfs", "none", place, "-o"]
    subprocess.run([*mount, "size=1g"], check=True)
    try:
        yield lambda size: subprocess.run([*mount, f"remount,size={size}"], check=True) and None
    finally:
        subprocess.run(["umount", place], check=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, places = ["compare", "grid", "lightning", "save", "diagnose"], ["one", "two", "full"]
    parser.add_argument("what", nargs="*", default=names, help=", ".join(names))
    parser.add_argument(
        "--on", nargs="+", choices=places, default=places, help="a folder for one, for two; a full disk"
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "full" in options.on and "MAY_MOUNT" not in os.environ:
        os.environ["MAY_MOUNT"] = "1"
        os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv])
    os.environ["OMP_NUM_THREADS"] = "1"
    end(start(["-c", ""], Path()))  # the imports are in no run's time
    for name in options.what:
        for place in options.on:
            # A trainer has a folder of its own; on a full disk Lightning cuts off its own checkpoints.
            if name == "lightning" and place != "one":
                continue
            with tempfile.TemporaryDirectory() as folder:
                trial = Trial(name, Path(folder), options.seed)
                if place == "full":
                    done = trial.on_a_full_disk(options.kills)
                else:
                    done = trial.on_a_folder(places.index(place) + 1, options.kills)
                print(f"{name}, {place}: {done}, {len(trial.expected)} files as without", flush=True)


if __name__ == "__main__":
    main()
