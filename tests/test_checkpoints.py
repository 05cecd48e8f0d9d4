"""Checkpoints: what comes back, and what a damaged or foreign file says."""

import json
import re
import resource
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import viewaug.checkpoints
from viewaug import Viewmaker, load, save
from viewaug.originals import OriginalViewmaker

VIEWMAKERS = {
    "default": {"channels": 3, "width": 8, "depth": 1},
    "no clamp": {"channels": 1, "value_range": None, "budget": 0.125, "width": 4, "depth": 2, "patch": 2, "noise": 3},
    "another range": {"channels": 2, "value_range": (-1, 2.5), "constraint": "project", "width": 8, "depth": 1},
    "waveform": {"channels": 1, "dims": 1, "constraint": "rescale", "eps": 1e-4, "width": 8, "depth": 1},
    "volume": {"channels": 1, "dims": 3, "perturbation": "spectral", "width": 8, "depth": 1},
    "random": {"channels": 2, "generator": "random", "perturbation": ["mask", "colour"], "value_range": (0, 255)},
    "deviations": {"channels": 1, "value_range": None, "units": "std", "departure": 0.5, "width": 4, "depth": 1},
    "reference": {"channels": 1, "generator": "reference", "blocks": 1},
    # what from_reference builds
    "original": {
        "channels": 1,
        "generator": "reference",
        "perturbation": {"name": "spectral", "norm": None},
        "constraint": "rescale_coefficients",
        "eps": 1e-4,
        "blocks": 2,
    },
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "viewmaker.safetensors"


def small() -> Viewmaker:
    return Viewmaker(1, width=8, depth=1)


def rewrite(path, weights=None, header=None) -> None:
    """Save a small viewmaker whose weights or header are other ones."""
    save(small(), path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["viewaug"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file((weights or dict)(tensors), path, {"viewaug": json.dumps((header or dict)(metadata))})


class TestRoundTrip:
    @pytest.mark.parametrize("name", VIEWMAKERS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_same_view_for_the_same_noise(self, path, name, dtype):
        viewmaker = (OriginalViewmaker if name == "original" else Viewmaker)(**VIEWMAKERS[name]).to(dtype)
        save(viewmaker, path)
        loaded = load(path)
        assert loaded.config == viewmaker.config
        x = torch.rand(2, viewmaker.channels, *(8,) * viewmaker.dims, dtype=dtype)
        noise = viewmaker.draw_noise(x)
        assert torch.equal(loaded(x, noise), viewmaker(x, noise))
        assert all(p.requires_grad for p in loaded.parameters())

    def test_half_precision_stays(self, path):
        dtype, viewmaker = torch.bfloat16, small().bfloat16()
        save(viewmaker, path)
        weights = load(path).state_dict()
        assert {value.dtype for value in weights.values()} == {dtype}
        assert all(torch.equal(weights[name], value) for name, value in viewmaker.state_dict().items())

    def test_assigned_budget(self, path):
        viewmaker = small()
        viewmaker.budget = 0.2
        save(viewmaker, path)
        assert load(path).budget == 0.2

    def test_layout_and_gradient_do_not_matter(self, path):
        viewmaker = small().to(memory_format=torch.channels_last).requires_grad_(False)
        save(viewmaker, path)
        assert all(torch.equal(a, b) for a, b in zip(load(path).parameters(), viewmaker.parameters(), strict=True))

    def test_the_file_may_go(self, path):
        viewmaker = small()
        save(viewmaker, path)
        loaded = load(path)
        save(Viewmaker(1, width=8, depth=1), path)
        path.unlink()
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), viewmaker.parameters(), strict=True))

    def test_path_is_a_string_in_a_new_folder(self, tmp_path):
        save(small(), f"{tmp_path}/new/viewmaker")
        assert load(f"{tmp_path}/new/viewmaker").channels == 1


class TestAtomic:
    def test_replaces(self, path):
        save(small(), path)
        save(Viewmaker(2, width=8, depth=1), path)
        assert load(path).channels == 2
        assert list(path.parent.iterdir()) == [path]

    def test_interrupted(self, path, monkeypatch):
        def half(weights, temporary, metadata):
            save_file(weights, temporary, metadata)
            content = temporary.read_bytes()
            temporary.write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt

        save(small(), path)
        before = path.read_bytes()
        monkeypatch.setattr(viewaug._files, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            save(Viewmaker(2, width=8, depth=1), path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def without_stem_bias(weights: dict) -> dict:
    del weights["generator.stem.bias"]
    return weights


class TestBadFile:
    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_truncated(self, path, kept):
        save(small(), path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is truncated or no safetensors"):
            load(path)

    def test_text(self, path):
        path.write_text("Dear viewmaker, how are you? " * 9)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is .*no safetensors"):
            load(path)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"viewaug": "yes"}, {"viewaug": "[1]"}])
    def test_foreign(self, path, metadata):
        save_file({"weight": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*not a viewmaker's"):
            load(path)

    @pytest.mark.parametrize("version", [0, 3, "1", True, None])
    def test_unknown_version(self, path, version):
        rewrite(path, header=lambda header: {**header, "version": version})
        with pytest.raises(ValueError, match=f"version {version}"):
            load(path)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (without_stem_bias, "lacks parameter: generator.stem.bias"),
            (lambda weights: {**weights, "generator.tail": torch.zeros(1)}, "unknown parameter: generator.tail"),
            (
                lambda weights: {**weights, "generator.stem.bias": torch.zeros(5)},
                r"generator\.stem\.bias of shape \(5,\), not \(8,\)",
            ),
            (
                lambda weights: {**weights, "generator.stem.bias": torch.zeros(8, dtype=torch.long)},
                r"generator\.stem\.bias.*int64",
            ),
        ],
        ids=["missing", "extra", "shape", "dtype"],
    )
    def test_wrong_weights(self, path, weights, message):
        rewrite(path, weights=weights)
        with pytest.raises(ValueError, match=message):
            load(path)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"channels": 1, "colour": 3}, "colour"),
            ({"channels": 0}, "`channels`"),
            ({"channels": 1, "generator": "huge"}, "`generator`"),
            ({"channels": 1, "value_range": [1, 0]}, "`value_range`"),
            (None, "config"),
            ([1], "config"),
            ("small", "config"),
        ],
    )
    def test_wrong_config(self, path, config, message):
        rewrite(path, header=lambda header: {**header, "config": config})
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
            load(path)

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["nothing", "folder"])
    def test_missing(self, path, make):
        make(path)
        with pytest.raises(FileNotFoundError, match=f"`path`.*{re.escape(str(path))}"):
            load(path)


def test_without_room_the_old_file_stays(path, no_room):
    save(small(), path)
    before = path.read_bytes()
    with no_room(1000), pytest.raises(OSError, match="cannot be written"):
        save(Viewmaker(), path)
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("viewmaker", [None, nn.Linear(2, 2), small().state_dict()])
def test_saves_viewmakers_only(path, viewmaker):
    with pytest.raises(TypeError, match="`viewmaker`"):
        save(viewmaker, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"width": 40_000},
        {"width": 10**9},
        {"channels": 10**9},
        {"channels": 10**12},
        {"depth": 10**6},
        {"patch": 1000},
        {"generator": "reference", "blocks": 10**6},
        {"perturbation": {"name": "warp", "knots": 10**4}},
    ],
    ids=str,
)
def test_a_small_file_that_says_it_is_huge_costs_nothing(path, change):
    """It is refused before anything of that size is made."""
    save(small(), path)
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = {**small().config, **change}
    if "generator" in change:
        config = {name: value for name, value in config.items() if name not in ("width", "depth")}
    save_file(weights, path, {"viewaug": json.dumps({"version": 2, "config": config})})
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=path.name):
        load(path)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
