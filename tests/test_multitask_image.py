"""The multi-task image experiments: overlays, backgrounds, methods, training that resumes, the command, its report."""

import contextlib
import errno
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from viewaug.examples import multitask_image
from viewaug.examples.multitask import backgrounds as backgrounds_module
from viewaug.examples.multitask import command, overlays
from viewaug.examples.multitask.backgrounds import Images, backgrounds
from viewaug.examples.multitask.cells import read_cells
from viewaug.examples.multitask.engine import prepare, splits
from viewaug.examples.multitask.methods import FORMER, Variant, modern
from viewaug.examples.multitask.overlays import OVERLAYS, Overlaid
from viewaug.examples.multitask.turns import original_loss
from viewaug.examples.multitask_image import PRESETS, ImageExperiment

import viewaug
from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.handmade import simclr_pipeline
from viewaug.comparison.objectives import objective
from viewaug.comparison.training import Log, Pretraining, TimeIsUp, Training, fit, viewmaker_callback
from viewaug.comparison.views import Views

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ["--preset", "quick", "--workers", "1", "--overlays", "digits"]


def images(count: int = 12) -> Images:
    x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(count) % 4)


def overlaid(overlay: str = "digits", count: int = 12, **options) -> Overlaid:
    return Overlaid(images(count), overlay, **{"train": True, **options})


def all_of(data: Overlaid) -> dict:
    return data.__getitems__(range(len(data)))


@pytest.mark.parametrize("overlay", ["shapes", "digits", "letters"])
def test_overlays(overlay):
    data = overlaid(overlay, count=300)
    batch = all_of(data)
    assert set(batch["overlay"].tolist()) == set(range(OVERLAYS[overlay]))
    assert torch.equal(batch["background"], data.images.label)
    view, mask = batch["views"][0], batch["mask"]
    assert view.min() >= 0
    assert view.max() <= 1
    untouched = (mask == 0).expand_as(view)
    assert torch.equal(view[untouched], (data.images.x.float() / 255)[untouched])
    assert ((mask > 0).flatten(1).sum(1) > 20).all()
    assert torch.equal(*batch["views"])  # both show the same one
    item = data[7]
    assert torch.equal(item["views"][0], view[7])
    assert item["overlay"] == batch["overlay"][7]


def test_no_overlay():
    batch = all_of(overlaid("none"))
    assert sorted(batch) == ["background", "index", "views"]
    assert torch.equal(batch["views"][0], images().x.float() / 255)


def test_shapes_as_in_the_paper():
    data = all_of(overlaid("shapes", count=60))
    for label, mask in zip(data["overlay"], data["mask"], strict=True):
        rows, columns = (mask[0] > 0).nonzero().unbind(1)
        assert (rows.min(), columns.min()) >= (10, 10)
        assert (rows.max(), columns.max()) <= (21, 21)
        assert mask.max() == pytest.approx(180 / 255)
        if label == 0:
            assert (mask > 0).sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


def test_digits_as_in_the_paper():
    data = all_of(overlaid("digits"))
    for view, mask in zip(data["views"][0], data["mask"], strict=True):
        places = [mask[0, y : y + 10, x : x + 10] for y, x in ((4, 4), (4, 16), (16, 4), (16, 16))]
        assert sum(place.sum() for place in places) == mask.sum()
        assert all(torch.equal(place, places[0]) for place in places)
        grey = view[:, mask[0] == 1]
        torch.testing.assert_close(grey[0], grey[1])


def test_what_an_overlay_depends_on():
    def masks(epoch=0, **options):
        data = overlaid("letters", **options)
        data.epoch = epoch
        return all_of(data)["mask"]

    assert torch.equal(masks(), masks())
    assert torch.equal(masks(), masks(epoch=3))
    assert not torch.equal(masks(), masks(seed=1))
    assert not torch.equal(masks(), masks(train=False))
    assert not torch.equal(masks(redraw=True), masks(redraw=True, epoch=1))
    assert torch.equal(masks(count=5), masks()[:5])


def test_shared_overlays():
    assert torch.equal(*all_of(overlaid())["views"])
    x0, x1 = all_of(overlaid(shared_overlay_probability=0))["views"]
    assert (x0 != x1).flatten(1).any(1).all()


@pytest.mark.parametrize("jitter", [0, 4])
@pytest.mark.parametrize("overlay", ["shapes", "digits", "letters"])
def test_batches_are_drawn_as_one_image_after_another(overlay, jitter):
    """To the bit: the same draws, and pictures put in their places by slices."""
    data = overlaid(overlay, redraw=True, jitter=jitter)
    data.epoch = 2
    batch = all_of(data)
    pictures = overlays._pictures(overlay, data.digits, True, torch.device("cpu"))
    for i, (view, mask, label) in enumerate(zip(batch["views"][0], batch["mask"], batch["overlay"], strict=True)):
        rng = data.rng(i, 0)
        which = int(rng.integers(len(pictures)))
        colour = torch.zeros(3) if overlay == "digits" else torch.from_numpy(rng.random(3)).float()
        found = torch.zeros(1, 32, 32)
        if overlay == "shapes":
            moves = rng.integers(-jitter, jitter + 1, size=2).tolist()
            found[0] = 180 / 255 * torch.roll(pictures[which], moves, (0, 1))
        for low in overlays.QUADRANTS if overlay == "digits" else ():
            top, left = (
                at + int(move) for at, move in zip(low, rng.integers(-jitter, jitter + 1, size=2), strict=True)
            )
            found[0, top : top + 10, left : left + 10] = pictures[which]
        for low in ((0, 0), (0, 16), (16, 0), (16, 16)) if overlay == "letters" else ():
            top, left = (int(rng.integers(at, at + (7 if at == 0 else 6))) for at in low)
            place = found[0, top : top + 16, left : left + 16]
            place.copy_(torch.maximum(place, pictures[which][: place.shape[0], : place.shape[1]]))
        x = data.images.x[i].float() / 255
        opacity, over = ((found > 0).float(), found) if overlay == "digits" else (found, colour[:, None, None])
        assert torch.equal(mask, opacity)
        assert torch.equal(view, x + opacity * (over - x))
        assert label == (overlays.digit_images(data.digits, True)[1][which] if overlay == "digits" else which)


def test_jitter():
    still, moved = (all_of(overlaid("shapes", jitter=jitter))["mask"] for jitter in (0, 3))
    assert not torch.equal(still, moved)
    assert torch.equal((still > 0).flatten(1).sum(1), (moved > 0).flatten(1).sum(1))


def test_digits_of_training_and_test_are_disjoint():
    train, test = (overlays.digit_images("digits", train)[0] for train in (True, False))
    assert len(train) == 898
    assert len({digit.numpy().tobytes() for digit in train} & {digit.numpy().tobytes() for digit in test}) < 9


def coded(folder) -> str:
    import io

    pixels = images(6).x.permute(0, 2, 3, 1).numpy() // 64 * 64
    files = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    arrays = {}
    for split in ("train", "test"):
        arrays[f"jpeg_{split}"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        arrays[f"offsets_{split}"] = np.cumsum([0, *map(len, files)])
        arrays[f"y_{split}"] = np.arange(6, dtype=np.uint8)
    np.savez(folder / "coded.npz", **arrays)
    return str(folder / "coded.npz")


def test_backgrounds(tmp_path):
    found = backgrounds(coded(tmp_path), train=True, count=5)
    assert found.x.shape == (5, 3, 32, 32)
    assert found.label.tolist() == [0, 1, 2, 3, 4]
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            Image.new("RGB", (50, 40), (10 * (name == "dog"), 0, 0)).save(tmp_path / "folder" / split / name / "a.png")
    found = backgrounds(str(tmp_path / "folder"), train=False, count=9)
    assert found.x.shape == (2, 3, 32, 32)
    assert torch.equal(found.x[:, 0, 0, 0] > 5, found.label == 1)
    found = backgrounds("photographs", train=True, count=40)
    assert found.x.dtype == torch.uint8
    assert len(found.label.unique()) > 5


def test_a_full_disk_ends_with_a_line(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for action, writes in (("run", "run_grid"), ("report", "write_report")):
        monkeypatch.setattr(command, writes, full)
        with pytest.raises(SystemExit):
            multitask_image.main([action, *QUICK, "--out", str(tmp_path)])
        assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")


def test_broken_digits_are_found_before_training(tmp_path, capsys):
    (tmp_path / "mnist.npz").write_bytes(b"no")
    with pytest.raises(SystemExit):
        multitask_image.main([*QUICK, "--digits", str(tmp_path / "mnist.npz"), "--out", str(tmp_path / "out")])
    assert "mnist.npz cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_backgrounds(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        backgrounds(str(tmp_path / "nowhere"), train=True, count=1)
    (tmp_path / "broken.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read"):
        backgrounds(str(tmp_path / "broken.npz"), train=True, count=1)
    with pytest.raises(FileNotFoundError, match="one a class"):
        backgrounds(str(tmp_path), train=True, count=1)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        backgrounds(str(tmp_path), train=True, count=1)
    assert backgrounds_module.SIZE == 32


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"overlay": "stars"}, "`overlay`"),
        ({"jitter": 9}, "`jitter`"),
        ({"shared_overlay_probability": 2}, "`shared_overlay_probability`"),
    ],
)
def test_bad_overlays(options, name):
    with pytest.raises(ValueError, match=name):
        overlaid(**options)


def views(name: str) -> Views:
    experiment = ImageExperiment()
    return experiment.views("digits", *experiment.parse(name), PRESETS["cpu"])


def test_methods():
    parse = ImageExperiment().parse
    method, variant = parse("crop/learned:colour+warp")
    assert (method.maker, method.kinds, method.under.maker) == ("learned", ("colour", "warp"), "crop")
    assert variant == Variant()
    assert parse("random:mix")[0].kinds == parse("region")[0].kinds  # as viewaug compare names them
    assert parse("manual") == (parse("expert")[0], Variant(shared=0.5))
    assert parse("learned:warp@0.1")[0].strength == 0.1
    assert parse("crop/learned@steered") == (parse("crop/learned")[0], Variant(steered=True))
    assert parse("original@0.1")[1].in_turns
    wrong = ("crop@0.1", "expert@steered", "original@steered", "noise@0", "noise@inf", "learned@dance", "hard")
    for name in ("dance", "noise:warp", "original:warp", "learned:dance", "supervised", *wrong):
        with pytest.raises(ValueError, match="Expected"):
            parse(name)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        *FORMER.items(),
        ("viewmaker@0.1", "learned@0.1"),
        ("viewmaker:random", "random"),
        ("viewmaker:random+mix", "random:mix"),
        ("viewmaker:blend+additive@steered", "learned:blend+additive@steered"),
        ("crop+viewmaker:random+colour+warp", "crop/random:colour+warp"),
        ("noise@0.1", "noise@0.1"),
        ("random:mix", "random:mix"),
    ],
)
def test_former_names(former, now):
    assert modern(former) == modern(now) == now


def test_views():
    x = torch.rand(4, 3, 32, 32)
    for name in (*ImageExperiment.methods, *ImageExperiment.variants, "random:mix", "expert@0.5/learned:warp"):
        made = views(name)
        assert made(x).shape == x.shape
        assert (made.augment is None) == (name.split("/")[0] in ("none", "noise", "learned", "original", "random:mix"))
    for name, budget in (("noise", 0.1), ("noise@0.07", 0.07), ("learned", 0.1), ("original", 0.1)):
        assert views(name).viewmaker.budget == budget
    torch.testing.assert_close(viewaug.distortion(x, views("noise@0.07")(x)), torch.full((4,), 0.07))
    mild = replace(PRESETS["cpu"], crop=0.999)
    experiment = ImageExperiment()
    mildly = experiment.views("digits", *experiment.parse("crop"), mild)
    assert (mildly(x) - x).abs().mean() < (views("crop")(x) - x).abs().mean()


def test_original_loss():
    """Against its formula, written out."""
    torch.manual_seed(0)
    z0, z1 = torch.randn(5, 8), torch.randn(5, 8)
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (z0, z1))
    terms = []
    for i in range(5):
        exponents = [float(a[i] @ other) / 0.3 for other in [*a, *b]]
        terms.append(math.log(sum(map(math.exp, exponents))) - math.log(10) - float(a[i] @ b[i]) / 0.3)
    assert original_loss(z0, z1, 0.3).item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_encoders():
    for name, size in (("small", 128), ("resnet18", 512)):
        encoder, features = build_encoder(name)
        assert features == size
        assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, size)
    assert encoder[1].conv1.stride == (1, 1)


def test_training_resumes_as_if_it_had_not_stopped(tmp_path):
    options = Training(epochs=3, batch=4, precision="32-true")

    def run(folder, stop_after=None):
        torch.manual_seed(0)
        encoder, features = build_encoder("small")
        module = Pretraining(objective("simclr", encoder, features), options, simclr_pipeline(32))
        done = []

        def after_epoch():
            done.append(1)
            if stop_after == len(done):
                raise KeyboardInterrupt

        log = Log(lambda: {"background": 1.0}, 2, after_epoch)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            fit(module, overlaid(redraw=True), folder, log=log)
        return module, log

    whole, log = run(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    assert [row["epoch"] for row in log.curve] == [1, 2, 3]
    assert ["background" in row for row in log.curve] == [False, True, False]
    run(tmp_path / "parts", stop_after=2)
    assert (tmp_path / "parts" / "last.ckpt").exists()
    resumed, log = run(tmp_path / "parts")
    assert [row["epoch"] for row in log.curve] == [1, 2, 3]
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("steps", [1, 5, 6])
def test_training_stops_in_time_and_goes_on(tmp_path, monkeypatch, steps):
    """Within an epoch and at its end, as if it had not stopped; learned views, too."""
    options = Training(epochs=3, batch=4, precision="32-true")

    def run(folder, stop_after=None):
        torch.manual_seed(0)
        encoder, features = build_encoder("small")
        module = Pretraining(objective("simclr", encoder, features), options)
        viewmaker = viewaug.Viewmaker()
        log = Log(None, 0, lambda: None)
        whole = log.on_train_batch_end

        def on_train_batch_end(trainer, *rest):
            if trainer.global_step == stop_after:
                log.until = 0
            whole(trainer, *rest)

        monkeypatch.setattr(log, "on_train_batch_end", on_train_batch_end)
        stopped = pytest.raises(TimeIsUp, match=f"after {steps} steps") if stop_after else contextlib.nullcontext()
        with stopped:
            fit(
                module, overlaid(redraw=True), folder, log=log, viewmaker=viewmaker_callback(viewmaker, lr=1e-3, seed=0)
            )
        return [*module.state_dict().values(), *viewmaker.parameters()], log

    whole, log = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=steps)
    resumed, again = run(tmp_path / "parts")
    assert [row["epoch"] for row in again.curve] == [row["epoch"] for row in log.curve] == [1, 2, 3]
    assert all(torch.equal(p, q) for p, q in zip(whole, resumed, strict=True))


def test_minutes_and_compile_in_the_command(tmp_path, capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    options = [*QUICK, "--methods", "none", "viewmaker", "--compile", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        multitask_image.main([*options, "--minutes", "0.0001"])
    assert stopped.value.code == 124
    assert "Time is up" in capsys.readouterr().err
    assert not list((tmp_path / "cells").glob("*.json"))
    multitask_image.main([*options, "--minutes", "100"])
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    assert compiled.count("Viewmaker") == 1
    assert "Sequential" in compiled


def test_quick_preset_and_report(tmp_path, capsys):
    methods = [
        "none",
        "noise",
        "expert",
        "crop",
        "manual",
        "learned",
        "crop/learned",
        "expert/learned",
        "original",
    ]
    arguments = [*QUICK, "--methods", *methods, "--out", str(tmp_path)]
    start = time.monotonic()
    multitask_image.main(arguments)
    assert time.monotonic() - start < 120
    assert capsys.readouterr().out.strip().endswith("report.md")
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {method} |" in text for method in methods)
    assert "| 58.8 | 86.7 |" in text  # the paper's
    assert "| epochs | 200 | 1 |" in text  # a departure from the paper
    assert "| temperature |" not in text  # none
    for figure in ("curves.png", "views-digits.png", "destruction-digits.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
        assert f"({figure})" in text
    cell = json.loads((tmp_path / "cells" / "digits-learned-0.json").read_text())["cell"]
    assert set(cell["test"]) == {"background", "overlay"}
    assert all(0 <= value <= 100 for value in cell["test"].values())
    assert cell["reached"] == {"budget": 0.05, "strength": 1.0}
    assert viewaug.load(tmp_path / "viewmakers" / "digits-learned-0.safetensors").budget == 0.05
    assert not (tmp_path / "running").exists() or not list((tmp_path / "running").iterdir())
    (tmp_path / "report.md").unlink()
    multitask_image.main(["report", "--out", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == text
    views = tmp_path / "views-digits.png"
    drawn = views.stat().st_mtime_ns
    multitask_image.main(arguments)
    assert views.stat().st_mtime_ns > drawn
    # As in a clone, where cells and figures came without viewmakers.
    (tmp_path / "viewmakers" / "digits-learned-0.safetensors").unlink()
    drawn = views.stat().st_mtime_ns
    multitask_image.main(arguments)
    assert views.stat().st_mtime_ns == drawn
    with pytest.raises(SystemExit):
        multitask_image.main([*QUICK, "--methods", "none", "--budget", "0.2", "--out", str(tmp_path)])
    assert "other settings" in capsys.readouterr().err


def test_validation(tmp_path):
    """Probes score every tenth training input, which nothing is trained on, and nothing of the test split."""
    settings = replace(multitask_image.PRESETS["quick"], train_images=40, validation=True)
    train, held_out = splits(ImageExperiment(), "digits", Variant(), settings, 0)
    whole = ImageExperiment().data("digits", Variant(), settings, 0, train=True)
    assert (len(train), len(held_out)) == (36, 4)
    for part, i, j in ((train, 0, 0), (train, 9, 10), (held_out, 0, 9), (held_out, 3, 39)):
        assert torch.equal(part.__getitems__([i])["views"][0], whole.__getitems__([j])["views"][0])
    train.epoch = 3
    assert held_out.epoch == 3  # one data set, whose draws go on
    multitask_image.main([*QUICK, "--methods", "none", "--validation", "--out", str(tmp_path)])
    assert "on clean held-out training images" in (tmp_path / "report.md").read_text()
    cell = read_cells(ImageExperiment(), tmp_path)[0][0]
    assert "test" not in cell
    assert set(cell["validation"]) == {"background", "overlay"}


def test_cells_of_older_versions(tmp_path):
    """They are read, and not run again."""
    arguments = [*QUICK, "--out", str(tmp_path), "--methods"]
    multitask_image.main([*arguments, "learned"])
    file = tmp_path / "cells" / "digits-learned-0.json"
    found = json.loads(file.read_text())
    text = (tmp_path / "report.md").read_text()
    file.unlink()
    cell = found["cell"]
    cell |= {"method": "viewmaker", "accuracy": cell.pop("test"), "cpu_seconds": cell.pop("seconds")}
    cell |= cell.pop("reached")
    (tmp_path / "cells" / "digits-viewmaker-0.json").write_text(json.dumps(found))
    for name in ("learned", "viewmaker"):
        multitask_image.main([*arguments, name])
        assert [file.name for file in (tmp_path / "cells").iterdir()] == ["digits-viewmaker-0.json"]
        assert (tmp_path / "report.md").read_text() == text


def test_budgets_of_methods(tmp_path):
    methods = ["learned@0.02", "viewmaker@0.1", "learned@steered", "noise@0.1", "noise@steered", "mixup"]
    multitask_image.main([*QUICK, "--methods", *methods, "--difficulty", "0.2", "--out", str(tmp_path)])
    cells, _ = read_cells(ImageExperiment(), tmp_path)
    budgets = {cell["method"]: cell["reached"]["budget"] for cell in cells}
    assert [budgets[name] for name in ("learned@0.02", "learned@0.1", "noise@0.1", "mixup")] == [0.02, 0.1, 0.1, None]
    assert budgets["learned@steered"] != 0.05
    assert budgets["noise@steered"] != 0.05
    assert (tmp_path / "budgets.png").exists()
    assert "budgets.png" in (tmp_path / "report.md").read_text()
    rows = (tmp_path / "logs" / "digits-learned@0.1-0" / "version_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) > 1
    assert "loss" in rows[0].split(",")


def test_instance_discrimination(tmp_path):
    """The first paper's other objective: each input has its own place in the bank, also where a tenth is held out."""
    options = ["--methods", "learned", "--objective", "instance", "--max-steps", "2", "--validation", "--batch", "32"]
    multitask_image.main([*QUICK, *options, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "cells" / "digits-learned-0.json").read_text())
    assert found["settings"]["objective"] == "instance"
    assert math.isfinite(found["cell"]["loss"])
    settings = replace(PRESETS["quick"], objective="instance", validation=True)
    run = prepare(ImageExperiment(), "digits", "learned", 0, settings)
    assert len(run.module.objective.bank) == len(run.train) == 116
    batch = run.train.__getitems__([3, 9])
    assert batch["index"].tolist() == [3, 9]
    torch.testing.assert_close(batch["views"][0][1], run.train.data[10]["views"][0])  # the ninth is held out
    assert run.train.data[10]["index"] == 10


def test_too_large_a_batch(tmp_path):
    with pytest.raises(ValueError, match="`batch` to be at most 128"):
        multitask_image.main([*QUICK, "--methods", "none", "--batch", "129", "--out", str(tmp_path)])


def test_controller_and_paper_options(tmp_path, monkeypatch):
    """The paper's preset for a step, in miniature but for the encoder, its probes and its views in probe training."""
    paper = multitask_image.PRESETS["paper"]
    small = replace(
        paper,
        data="photographs",
        digits="digits",
        train_images=40,
        test_images=30,
        training=replace(paper.training, encoder="small", epochs=1, batch=8, difficulty=0.3),
    )
    monkeypatch.setitem(multitask_image.PRESETS, "paper", small)
    methods = ["learned", "learned@0.02"]
    arguments = ["--preset", "paper", "--overlays", "shapes", "--methods", *methods, "--seeds", "1"]
    multitask_image.main([*arguments, "--workers", "1", "--max-steps", "3", "--out", str(tmp_path)])
    cell = json.loads((tmp_path / "cells" / "shapes-learned-0.json").read_text())["cell"]
    assert cell["reached"]["budget"] != 0.05
    fixed = json.loads((tmp_path / "cells" / "shapes-learned@0.02-0.json").read_text())["cell"]
    assert fixed["reached"]["budget"] == 0.02
    assert set(cell["prepool"]) == set(cell["on_views"]) == {"background", "overlay"}
    head = "| photo | overlay | mean | photo, map | overlay, map | mean, map | photo, views in probe |"
    assert head in (tmp_path / "report.md").read_text()
    with pytest.raises(SystemExit):  # what was stopped early is not taken for a whole run
        multitask_image.main([*arguments, "--workers", "1", "--out", str(tmp_path)])


def test_cells_are_of_the_same_data(tmp_path, capsys):
    """A file of the same name with other contents is refused."""

    def run(seed):
        rng = np.random.default_rng(seed)
        arrays = {f"x_{split}": rng.integers(256, size=(20, 28, 28), dtype=np.uint8) for split in ("train", "test")}
        np.savez(tmp_path / "digits.npz", **arrays, y_train=np.arange(20) % 10, y_test=np.arange(20) % 10)
        few = ["--digits", str(tmp_path / "digits.npz"), "--batch", "8", "--max-steps", "1"]
        multitask_image.main([*QUICK, *few, "--methods", "none", "--out", str(tmp_path)])

    run(0)
    run(0)
    with pytest.raises(SystemExit):
        run(1)
    assert "other settings" in capsys.readouterr().err


def test_estimate(tmp_path, capsys):
    """From a few steps of each, without a file."""
    multitask_image.main(
        [*QUICK, "--methods", "none", "viewmaker", "--seeds", "2", "--estimate", "--out", str(tmp_path / "o")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["digits", "none"], ["digits", "learned"]]
    prices = [[float(number) for number in line.split()[2:5]] for line in lines[1:3]]
    hours = [(step * steps / 1000 + probes) / 3600 for step, steps, probes in prices]
    assert float(lines[3].split()[0]) == pytest.approx(2 * sum(hours), abs=0.06)
    assert "GiB" in lines[3]
    assert not (tmp_path / "o").exists()
