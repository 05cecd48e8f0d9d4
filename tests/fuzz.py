"""Random cases without end, each of a seed: python tests/fuzz.py budgets --count 100000, or make fuzz.

`budgets` makes views of all sorts of input by all sorts of viewmakers: none is above its budget, outside its range, or
not finite where the input is. `files` breaks files of every kind: each reader says what is wrong, or reads them, and
nothing else is raised. A failure prints its seed; --seed N begins there.
"""

import argparse
import contextlib
import io
import json
import math
import random
import struct
import sys
import tempfile
import time
import warnings
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import viewaug
from viewaug.checkpoints import header
from viewaug.masks import mask_of, moments
from viewaug.perturbations import PERTURBATIONS

NAMES = [name for name in PERTURBATIONS if name != "kornia"]
KORNIA = [{"name": "kornia", "op": "RandomSharpness"}, {"name": "kornia", "op": "RandomSolarize"}]
BOUNDED = ["mix", "mask", "warp", "affine", "colour", "blur", "gain", "filter", "crop", "channels"]


def budgets(seed: int) -> bool:
    """Make one view; return whether there was any, as not all options go together.

    Raises:
        AssertionError: if it is not as promised.
    """
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims, channels = draw.choice([1, 1, 2, 2, 2, 3]), draw.choice([1, 2, 3, 6])
    size = [draw.randint(1, {1: 90, 2: 20, 3: 7}[dims]) for _ in range(dims)]
    value_range = draw.choice([None, (0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-3.5, 1e4), (0.0, 1e-3)])
    dtype = draw.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    width = 1.0 if value_range is None else value_range[1] - value_range[0]
    budget = width * 10 ** draw.uniform(-4, 0)
    units = draw.choice(["input", "input", "std", "raw"])
    options: dict[str, Any] = {
        "dims": dims,
        "budget": budget if units != "std" else 10 ** draw.uniform(-3, 0.5),
        "perturbation": specification(draw),
        "value_range": value_range,
        "constraint": draw.choice(["fit", "fit", "fit", "project", "rescale"]),
        "units": units,
        "generator": draw.choice(["fast", "fast", "random", "reference"]),
    }
    if options["generator"] == "fast":
        options |= {"width": draw.choice([1, 8]), "depth": draw.choice([1, 2]), "patch": draw.choice([1, 3, 4])}
    x = inputs(draw, (draw.choice([1, 2, 5]), channels, *size), value_range, dtype)
    asked: dict[str, Any] = {}
    if draw.random() < 0.2:
        asked["where"] = (torch.rand(draw.choice([1, len(x)]), draw.choice([1, channels]), *size) > 0.4).float()
        if draw.random() < 0.3:
            asked["where"] *= torch.rand(()).item()
    if draw.random() < 0.1:
        asked["lengths"] = torch.randint(1, size[-1] + 1, (len(x),))
    if draw.random() < 0.2:
        asked["budget"] = options["budget"] * (0.1 + torch.rand(len(x)))
    try:
        viewmaker = viewaug.Viewmaker(channels, **options)
        with torch.no_grad():
            for parameter in viewmaker.parameters():
                parameter.mul_(10 ** draw.uniform(-1, 1))
        view = viewmaker(x, **asked)
    except (TypeError, ValueError) as error:
        if "Expected" not in str(error) and "RandomSharpness cannot" not in str(error):  # which is kornia's
            raise AssertionError(f"an error that says not enough: {error}") from error
        return False
    check(viewmaker, x, view, asked)
    return True


def specification(draw: random.Random, depth: int = 0) -> Any:
    """Draw a perturbation, of steps and choices."""
    kind = draw.random()
    if kind < 0.25 and depth < 2:
        return [specification(draw, depth + 1) for _ in range(draw.randint(1, 3))]
    if kind < 0.35 and depth < 2:
        return {"one_of": [specification(draw, depth + 1) for _ in range(draw.randint(2, 3))]}
    if kind < 0.4:
        return draw.choice(KORNIA)
    spec: dict[str, Any] = {"name": draw.choice(NAMES)}
    if spec["name"] in ("mix", "mask"):
        spec |= {"edge": draw.choice([0.0, 0.3, (0.05, 2.0), None]), "channels": draw.random() < 0.2}
        spec["grain"] = draw.choice([None, 0.25, 2])
    if spec["name"] == "mask":
        spec["fill"] = draw.choice(["mean", "zero", "noise"])
    if depth and draw.random() < 0.2 and spec["name"] in BOUNDED:
        spec["budget"] = draw.choice([None, 0.05])
    return spec


def inputs(draw: random.Random, shape: tuple[int, ...], value_range: Any, dtype: torch.dtype) -> torch.Tensor:
    """Draw a batch, of which some samples are of one value, at the bounds, subnormal or huge."""
    low, high = value_range or (-2.0, 2.0)
    x = low + (high - low) * torch.rand(shape, dtype=torch.float64)
    for sample in x:
        match draw.randint(0, 11):
            case 0:
                sample.fill_(draw.uniform(low, high))
            case 1:
                sample.copy_(torch.where(torch.rand(shape[1:]) < 0.5, low, high))
            case 2:
                sample.fill_(draw.choice([low, high]))
            case 3 if low <= 0 <= high:
                sample.mul_(1e-40)
            case 4 if value_range is None:
                sample.mul_(1e30 if dtype in (torch.float32, torch.float64, torch.bfloat16) else 1e3)
            case 5 if value_range is None:
                sample.mul_(1e-20).add_(1.0)
            case 6:
                sample.fill_(low).view(-1)[0] = high
    return x.to(dtype)


def check(viewmaker: viewaug.Viewmaker, x: torch.Tensor, view: torch.Tensor, asked: dict[str, Any]) -> None:
    """Raise an AssertionError unless a view keeps what is promised."""
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert view.isfinite().all(), "not finite"
    wide = torch.promote_types(x.dtype, torch.float32)
    near, far = x.to(wide), view.to(wide)
    # A view is rounded to its dtype, and near the smallest normal numbers nothing can be counted.
    low, high = viewmaker.value_range or (0.0, 1.0)
    least = torch.finfo(x.dtype).tiny + torch.finfo(wide).tiny * max(1.0, high - low)
    rounding = torch.finfo(x.dtype).eps * far.abs().amax(tuple(range(1, x.ndim))) + 10 * least
    if viewmaker.value_range is not None:
        some = torch.finfo(x.dtype).eps * max(abs(low), abs(high))
        assert (far >= near.clamp(max=low) - some).all(), "below the range"
        assert (far <= near.clamp(min=high) + some).all(), "above the range"
    options = {name: part for name, part in asked.items() if name != "budget"}
    bound = asked.get("budget", viewmaker.budget)
    # Where every step has its own, there is no bound of the whole.
    if bound is None or viewmaker.perturbation.divided or viewmaker.perturbation.budget != "common":
        return
    bound = torch.as_tensor(bound, dtype=wide)
    if viewmaker.units == "std":
        keep = mask_of(near, **{"where": None, "lengths": None, **options})
        kept = None if keep is None else keep > 0
        bound = bound * moments(near if kept is None else torch.where(kept, near, 0), kept)[1].flatten()
    spent = viewaug.distortion(near, far, **options)
    assert (spent <= bound * (1 + 1e-4) + rounding).all(), f"{(spent / bound).max().item()} of the budget"


class Files:
    """Files of each kind, broken ones of them, and who reads them."""

    def __init__(self, folder: Path) -> None:
        from PIL import Image
        from viewaug.examples.multitask.backgrounds import backgrounds

        from viewaug.commands._signals import read_signals
        from viewaug.commands.extract import main as extract
        from viewaug.comparison.arrays import read_arrays
        from viewaug.comparison.grid import read_json
        from viewaug.comparison.result import Comparison

        def checkpoint(path: Path) -> None:
            with silence(), contextlib.suppress(SystemExit):
                extract([str(path), "--out", str(path.with_suffix(".safetensors"))])

        def photograph(path: Path) -> None:
            (folder / "train" / "one").mkdir(parents=True, exist_ok=True)
            (folder / "train" / "one" / "broken.png").write_bytes(path.read_bytes())
            backgrounds(str(folder), train=True, count=1)

        self.folder = folder
        viewmaker, series = viewaug.Viewmaker(1, width=4, depth=1), viewaug.Viewmaker(1, dims=1, value_range=None)
        viewaug.save(viewmaker, folder / "viewmaker.safetensors")
        x = np.random.default_rng(0).random((12, 1, 8)).astype("float32")
        np.savez(folder / "arrays.npz", x=x, label=np.arange(12) % 2, value_range=[0.0, 1.0])
        (folder / "cell.json").write_text(json.dumps({"settings": {"a": 1}, "cell": {"b": [1, 2.5, None]}}))
        module = torch.nn.Module()
        module.viewmaker = viewmaker
        torch.save({"state_dict": module.state_dict(), "viewaug": header(viewmaker)}, folder / "run.ckpt")
        sound(folder / "sound.wav")
        Image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3)).save(folder / "image.png")
        np.save(folder / "array.npy", x[0])
        results = Path(__file__).parents[1] / "examples" / "results" / "demo" / "smartwatch" / "results.json"
        (folder / "results.json").write_bytes(results.read_bytes())
        self.readers: dict[str, tuple[Path, Callable[[Path], Any]]] = {
            "viewmaker": (folder / "viewmaker.safetensors", viewaug.load),
            "arrays": (folder / "arrays.npz", read_arrays),
            "cell": (folder / "cell.json", read_json),
            "results": (folder / "results.json", lambda path: Comparison.read(path).verdict),
            "checkpoint": (folder / "run.ckpt", checkpoint),
            "image": (folder / "image.png", lambda path: read_signals([path], viewaug.Viewmaker(3))),
            "photograph": (folder / "image.png", photograph),
            "sound": (folder / "sound.wav", lambda path: read_signals([path], series)),
            "array": (folder / "array.npy", lambda path: read_signals([path], series)),
        }

    def __call__(self, seed: int) -> bool:
        """Break a file, and read it; return whether it could be read."""
        draw = random.Random(seed)
        name = draw.choice(list(self.readers))
        source, read = self.readers[name]
        path = self.folder / f"broken{source.suffix}"
        path.write_bytes(broken(draw, source))
        try:
            read(path)
        except (ValueError, OSError, TypeError):
            return False
        return True


@contextlib.contextmanager
def silence() -> Any:
    """Print nothing."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def sound(path: Path) -> None:
    """Write a short one."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(struct.pack("<400h", *range(400)))


def broken(draw: random.Random, source: Path) -> bytes:
    """Return the bytes of a file with something wrong, in its structure or anywhere."""
    data = bytearray(source.read_bytes())
    kind = draw.random()
    if kind < 0.35 and source.suffix in (".json", ".safetensors"):
        return in_json(draw, bytes(data), source.suffix)
    if kind < 0.35 and zipfile.is_zipfile(source):
        return in_zip(draw, source)
    if kind < 0.5:
        return bytes(data[: draw.randrange(len(data) + 1)])
    for _ in range(draw.choice([1, 1, 3, 30])):
        place = draw.randrange(len(data))
        match draw.randint(0, 3):
            case 0:
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place : place + draw.randint(1, 8)] = draw.randbytes(draw.randint(0, 8))
            case 2:
                data[place : place + 4] = struct.pack("<I", draw.choice([0, 1, 2**31 - 1, 2**32 - 1]))
            case 3:
                data[place:place] = data[: draw.randint(1, 64)]
    if kind > 0.97 and source.suffix == ".png":  # says that it is huge
        data[16:24] = struct.pack(">II", draw.choice([1, 10**5, 2**31 - 1]), 10**4)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def in_json(draw: random.Random, data: bytes, suffix: str) -> bytes:
    """Put something else at some place of the JSON of a file, or of the header of safetensors."""
    start = 8 + struct.unpack("<Q", data[:8])[0] if suffix == ".safetensors" else len(data)
    document = json.loads(data[8:start] if suffix == ".safetensors" else data)
    inner = document.get("__metadata__", {}).get("viewaug") if isinstance(document, dict) else None
    target = json.loads(inner) if inner else document
    for _ in range(draw.choice([1, 1, 2, 5])):
        replace_somewhere(draw, target)
    if inner:
        document["__metadata__"]["viewaug"] = json.dumps(target)
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data[start:] if suffix == ".safetensors" else text


def replace_somewhere(draw: random.Random, part: Any) -> None:
    """Change one value of lists and dictionaries, in place."""
    odd = [None, True, -1, 0, 1e308, math.inf, math.nan, 10**9, 10**30, "", "x" * 300, [], {}, [[1]], {"name": "mix"}]
    while isinstance(part, (dict, list)) and part:
        key = draw.choice(list(part) if isinstance(part, dict) else range(len(part)))
        if isinstance(part[key], (dict, list)) and part[key] and draw.random() < 0.8:
            part = part[key]
            continue
        if draw.random() < 0.2:
            del part[key]
        else:
            part[key] = draw.choice(odd)
        return


def in_zip(draw: random.Random, source: Path) -> bytes:
    """Break one member of an archive, leave it out, or rename it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            data = bytearray(old.read(name))
            if name == chosen:
                match draw.randint(0, 3):
                    case 0:
                        continue
                    case 1:
                        name = draw.choice(["x", "other.npy", "../x.npy", name + "x"])
                    case 2:
                        del data[draw.randrange(len(data) + 1) :]
                    case 3 if data:
                        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            new.writestr(name, bytes(data))
    return buffer.getvalue()


def run(case: Callable[[int], bool], first: int, count: int, minutes: float) -> int:
    """Run cases; return how many of them got through, and end at the first that fails."""
    end, done, through = time.monotonic() + 60 * minutes, 0, 0
    for seed in range(first, first + count):
        try:
            through += case(seed)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        done += 1
        if time.monotonic() > end:
            break
    print(f"{done} cases from seed {first} on, {through} of which got through")
    return through


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["budgets", "files"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        case = budgets if options.what == "budgets" else Files(Path(folder))
        run(case, options.seed, options.count, options.minutes)


if __name__ == "__main__":
    main()
