"""What was learned, in units, and the fixed recipe that is nearest to it."""

import json
import math
import re

import kornia.augmentation as K
import numpy as np
import pytest
import torch

import viewaug
from viewaug import Viewmaker
from viewaug.cli import main
from viewaug.distillation import distil
from viewaug.explanation import VIEW, apart, explain, input_share, random_twin, summarise
from viewaug.perturbations import PERTURBATIONS, Needs, Perturbation, Raw, build, measure

SHAPES = {1: (24, 2, 40), 2: (24, 3, 16, 12), 3: (24, 2, 6, 8, 4)}


def signals(dims=2, seed=0):
    return torch.rand(SHAPES[dims], generator=torch.Generator().manual_seed(seed))


def learned(perturbation, dims=2, seed=0, factor=4.0, **options):
    """A viewmaker that is far from its random twin."""
    torch.manual_seed(seed)
    options = {"budget": None, "value_range": (0.0, 1.0) if dims == 2 else None, **options}
    viewmaker = Viewmaker(SHAPES[dims][1], dims=dims, perturbation=perturbation, **options)
    with torch.no_grad():
        for name in ("head", "patterns", "numbers_head"):
            if hasattr(viewmaker.generator, name):
                getattr(viewmaker.generator, name).weight.mul_(30)
                if name != "patterns":
                    getattr(viewmaker.generator, name).bias.normal_().mul_(factor)
    return viewmaker


def raw_of(perturbation, x, numbers=0.0, maps=0.0):
    needs = perturbation.needs(x.shape[1], x.ndim - 2)
    draws = torch.rand(len(x), perturbation.draws(x.shape[2:]), generator=torch.Generator().manual_seed(0))
    return Raw(
        torch.full((len(x), needs.maps, *x.shape[2:]), maps), torch.full((len(x), needs.numbers), numbers), draws
    )


class TestMagnitudes:
    """They say what the perturbation does, which is measured."""

    def test_ends_of_affine_and_colour(self):
        x, end = signals(), 1e3
        found = build("affine").magnitudes(x, raw_of(build("affine"), x, end))
        assert [round(value[0].item(), 3) for value in found.values()] == [30, 1.5, 1.5, 15, 15, 0.25, 0.25]
        found = build("colour").magnitudes(x, raw_of(build("colour"), x, -end))
        assert [round(value[0].item(), 3) for value in found.values()] == [-0.5, 0, 0.333, 0, -180]
        half = build("affine")
        half.strength = 0.5
        assert half.magnitudes(x, raw_of(half, x, end))["rotation [°]"][0] == 15

    def test_gain_and_filter_are_in_decibels(self):
        x = torch.randn(4, 2, 64)
        for name in ("gain", "filter"):
            p = build(name)
            raw = raw_of(p, x, 0.5, 0.5)
            db = 20 * (p(x, raw).norm(dim=2) / x.norm(dim=2)).log10().mean(1)
            found = p.magnitudes(x, raw)
            torch.testing.assert_close(next(iter(found.values())), db, atol=1e-3, rtol=1e-3)
        assert next(iter(found)) == "at 0.00 of Nyquist [dB]"
        assert len(found) == 16

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_region(self, dims):
        x = torch.ones(SHAPES[dims])
        p = build({"name": "mask", "fill": "zero"})
        raw = raw_of(p, x, 0.3)
        found = p.magnitudes(x, raw)
        hidden = (p(x, raw) == 0).float().flatten(1).mean(1)
        torch.testing.assert_close(found["replaced [share]"], hidden)
        assert set(found) == {"replaced [share]", "replaced of the middle half [share]"}
        p = build({"name": "mix", "edge": (0.05, 2.0), "channels": True})
        found = p.magnitudes(x, raw_of(p, x))
        torch.testing.assert_close(found["edge [ranks]"], torch.full((len(x),), 0.1**0.5))
        assert "replaced of channel 1 [share]" in found
        p = build({"name": "mix", "edge": None})
        assert list(p.magnitudes(x, raw_of(p, x))) == ["replaced [share]"]

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_crop(self, dims):
        x = signals(dims)
        p = build({"name": "crop", "flip": 0.0})
        found = p.magnitudes(x, raw_of(p, x))
        assert found["area [share]"][0].item() == pytest.approx(0.54)
        assert sum(name.startswith("ratio") for name in found) == dims - 1
        assert all(value[0] == 0 for name, value in found.items() if name.startswith("centre"))
        whole = raw_of(p, x)
        whole.numbers[:, 0] = 1e3
        assert p.magnitudes(x, whole)["area [share]"][0] == 1

    def test_channels(self):
        x = torch.ones(64, 6, 8)
        p = build({"name": "channels", "triples": True, "exchange": 0.0, "rotate": 40.0})
        raw = raw_of(p, x)._replace(numbers=torch.randn(64, 9))
        found = p.magnitudes(x, raw)
        matrix = p._turn(raw.numbers.tanh()[:, 6:], 6)[:, :3, :3]
        angle = ((matrix.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).acos().rad2deg()
        torch.testing.assert_close(found["turned [°]"], angle, atol=1e-2, rtol=1e-3)
        kept = p._kept(raw.numbers.tanh()[:, :6])
        torch.testing.assert_close(found["dropped [channels]"], 6 - kept.sum(1))

    def test_blur_and_warp(self):
        x = signals()
        assert build("blur").magnitudes(x, raw_of(build("blur"), x, -1e3))["sigma W [elements]"][0] == 4
        found = build("warp").magnitudes(x, raw_of(build("warp"), x, maps=1e3))
        assert [round(value[0].item(), 4) for value in found.values()] == [0.25, 0.25, 0]

    def test_kornia(self):
        x = signals()
        p = build({"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5})
        found = p.magnitudes(x, raw_of(p, x, 1e3))
        assert found["blend [share]"][0] == 1
        assert len(found) == 2

    def test_one_of_says_which(self):
        x = signals()
        for shares in (None, "learned"):
            p = build(
                {"one_of": ["mask", ["crop", "colour"], "warp"], "shares": shares}
                if shares
                else {"one_of": ["mask", ["crop", "colour"], "warp"]}
            )
            viewmaker = Viewmaker(perturbation=p, budget=None)
            found = explain(viewmaker, x, views=8).learned
            chosen = torch.stack([value for name, value in found.items() if name.startswith("oneof")])
            assert torch.equal(chosen.sum(0), torch.ones(24, 8))
            assert (chosen.mean((1, 2)) - 1 / 3).abs().max() < 0.15

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_measure(self, dims):
        x = torch.ones(SHAPES[dims])
        found = measure(x)
        assert found["energy, constant [share]"][0].item() == pytest.approx(1)
        assert found["in the middle half [share]"][0].item() == pytest.approx(1 / 2**dims)
        assert found["channel 0 [share]"][0].item() == pytest.approx(1 / x.shape[1])
        x[..., ::2] = -1
        found = measure(x)
        assert found["energy, from 1/2 of Nyquist [share]"][0].item() == pytest.approx(1)
        assert found["mean change [units of x]"][0] == 1
        assert all(value.isfinite().all() for value in measure(torch.zeros_like(x)).values())

    def test_shares_of_the_spectrum_add_up(self):
        found = measure(torch.randn(8, 2, 13, 10))
        total = sum(value for name, value in found.items() if name.startswith("energy"))
        torch.testing.assert_close(total, torch.ones(8))

    def test_default_is_that_of_any_change(self):
        x = signals()
        p = build("additive")
        raw = raw_of(p, x, maps=0.1)
        found = p.magnitudes(x, raw)
        assert found["mean change [units of x]"][0].item() == pytest.approx(math.tanh(0.1))


class TestInputShare:
    @pytest.mark.parametrize(("share", "views"), [(0.0, 4), (0.5, 4), (0.8, 16), (1.0, 4)])
    def test_of_planted_components(self, share, views):
        generator = torch.Generator().manual_seed(0)
        found = [
            input_share(
                share**0.5 * torch.randn(200, 1, generator=generator)
                + (1 - share) ** 0.5 * torch.randn(200, views, generator=generator)
            )
            for _ in range(20)
        ]
        assert sum(found) / 20 == pytest.approx(share, abs=0.03)

    def test_without_variance_or_views(self):
        assert input_share(torch.full((5, 5), 0.1)) is None
        assert input_share(torch.rand(1, 5)) is None
        assert input_share(torch.rand(5, 1)) is None

    @pytest.mark.parametrize("of_input", [True, False])
    def test_of_a_planted_perturbation(self, of_input):
        class Planted(Perturbation):
            def needs(self, channels, dims):
                return Needs(numbers=1)

            def forward(self, x, raw):
                return x + self._shift(x, raw)[:, None, None, None]

            def magnitudes(self, x, raw):
                return {"shift [units]": self._shift(x, raw)}

            def _shift(self, x, raw):
                return x.mean((1, 2, 3)) if of_input else raw.numbers[:, 0].tanh()

        viewmaker = Viewmaker(perturbation=Planted(), budget=None, value_range=None)
        found = explain(viewmaker, signals() + torch.arange(24).view(-1, 1, 1, 1))
        assert input_share(found.learned["planted: shift [units]"]) == pytest.approx(float(of_input), abs=0.05)


class TestExplain:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("perturbation", ["mask", "crop", ["warp", {"name": "mix"}]])
    def test_dimensions(self, dims, perturbation):
        found = explain(learned(perturbation, dims), signals(dims), views=4)
        assert all(value.shape == (24, 4) and value.isfinite().all() for value in found.learned.values())
        assert list(found.learned) == list(found.random)
        assert found.place[0].shape == (1, *SHAPES[dims][2:])
        assert len(found.table.splitlines()) == 2 + len(found.learned)
        assert json.loads(json.dumps(found.to_json()))["inputs"] == 24
        for figure in (found.plot(), found.plot_place(), found.examples(next(iter(found.apart)))):
            figure.canvas.draw()

    def test_what_is_planted_is_found(self):
        viewmaker = Viewmaker(perturbation="affine", budget=None)
        with torch.no_grad():
            viewmaker.generator.numbers_head.bias[0] = 5.0
        found = explain(viewmaker, signals())
        assert found.departed[0] == "affine: rotation [°]"
        assert all(name.startswith(VIEW) for name in found.departed[1:])
        assert found.words[0].startswith("affine: rotation [°]: 2")
        assert summarise(found.learned["affine: rotation [°]"]).mean > 15
        viewmaker = Viewmaker(perturbation="affine", budget=None, generator="random")
        found = explain(viewmaker, signals())
        assert found.words == ["No magnitude departs from the random twin's."]
        assert set(found.apart.values()) == {0.0}

    def test_examples_are_the_views_that_were_measured(self):
        x = torch.cat([signals(), signals(seed=1)])  # in several batches
        found = explain(learned("crop"), x, views=3)
        values = found.learned[f"{VIEW}: mean change [units of x]"]
        for i, v in ((0, 0), (23, 1), (24, 2), (47, 0)):
            assert (found._view(i, v) - x[i]).abs().mean().item() == pytest.approx(values[i, v].item(), rel=1e-4)
        with pytest.raises(ValueError, match="Expected `name` to be one of"):
            found.examples("nothing")

    def test_what_a_budget_blends(self):
        found = explain(learned("affine", budget=0.02), signals(), views=4)
        blend = found.learned[f"{VIEW}: blend that the budget allows [share]"]
        assert 0 < blend.mean() < 0.5
        assert found.learned[f"{VIEW}: mean change [units of x]"].mean().item() == pytest.approx(0.02, rel=1e-3)

    def test_units_do_not_matter(self):
        small = explain(learned(["gain", "additive"], 1, budget=0.2, units="std", factor=1.0), signals(1), views=4)
        large = explain(learned(["gain", "additive"], 1, budget=0.2, units="std", factor=1.0), 50 * signals(1), views=4)
        for name, values in small.learned.items():
            if name != f"{VIEW}: mean change [units of x]":
                torch.testing.assert_close(values, large.learned[name], rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize("generator", ["reference", "random", "fast"])
    def test_generators(self, generator):
        viewmaker = Viewmaker(generator=generator)
        found = explain(viewmaker, signals(), views=2)
        assert random_twin(viewmaker).generator.from_noise
        assert all(name.startswith(VIEW) for name in found.learned)

    def test_errors(self):
        with pytest.raises(TypeError, match="Expected `viewmaker` to be"):
            explain("viewmaker", signals())
        with pytest.raises(ValueError, match="Expected `views` to be at least 2"):
            explain(Viewmaker(), signals(), views=1)
        with pytest.raises(ValueError, match="value range"):
            explain(Viewmaker(), 255 * signals())
        with pytest.raises(ValueError, match="Expected `x` to have the shape"):
            explain(Viewmaker(1), signals())
        with pytest.raises(ValueError, match="it is empty"):
            explain(Viewmaker(), signals()[:0])

    def test_it_is_loaded_on_use(self):
        assert viewaug.explain is explain
        assert viewaug.distil is distil

    def test_apart(self):
        assert apart(torch.arange(5.0), torch.arange(5.0) + 10) == 1
        assert apart(torch.rand(4000), torch.rand(4000) / 2) == pytest.approx(0.5, abs=0.05)


class TestDistil:
    @pytest.mark.parametrize(
        ("perturbation", "dims"),
        [("affine", 2), ("colour", 2), ("crop", 1), ("crop", 3), ("blur", 3), (["blur", "crop"], 2), ("filter", 1)],
    )
    def test_percentiles_are_the_learned_ones(self, perturbation, dims):
        viewmaker, x = learned(perturbation, dims), signals(dims)
        recipe = distil(viewmaker, x, views=40)
        again = explain(recipe.viewmaker, x, views=40, seed=1)
        assert not list(recipe.viewmaker.parameters())
        for name, (low, high) in recipe.ranges.items():
            if "ratio" in name or "centre" in name:
                continue  # of several numbers
            found = summarise(again.learned[name])
            spread = summarise(again.random[name])
            assert found.low == pytest.approx(low, abs=0.12 * (spread.high - spread.low)), name
            assert found.high == pytest.approx(high, abs=0.12 * (spread.high - spread.low)), name
        assert recipe.explanation.departed

    def test_of_nothing_learned_it_is_the_random_twin(self):
        recipe = distil(Viewmaker(perturbation="affine", budget=None), signals(), views=40)
        ends = torch.tensor(recipe.viewmaker.config["ranges"])
        assert (ends.abs() - math.atanh(0.9)).abs().max() < 0.4

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_spectrum_and_channels_are_held(self, dims):
        viewmaker, x = learned("additive", dims, budget=0.05), signals(dims)
        recipe = distil(viewmaker, x)
        again = explain(recipe.viewmaker, x, seed=1)
        for name, values in recipe.explanation.learned.items():
            if "energy" in name or "channel" in name:
                mine = abs(again.learned[name].mean() - values.mean())
                twins = abs(again.random[name].mean() - values.mean())
                assert mine < 0.05 + 0.3 * twins, name

    @pytest.mark.parametrize(
        ("perturbation", "budget"),
        [
            (["mask", "additive"], 0.05),
            ({"name": "mask", "fill": "noise"}, None),
            ({"one_of": ["mix", ["crop", "colour"]], "shares": "learned"}, None),
            ({"name": "mix", "edge": None}, None),
            ([{"name": "mask", "budget": None}, "spectral"], 0.05),
            ({"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5}, 0.05),
        ],
    )
    def test_whatever_the_perturbation(self, perturbation, budget, tmp_path):
        x = signals()
        recipe = distil(learned(perturbation, budget=budget), x, views=4)
        assert recipe.kornia is None
        assert list(recipe.files()) == ["random_viewmaker.py", "random_viewmaker.yaml"]
        names = {}
        exec(recipe.files()["random_viewmaker.py"], names)
        noise = recipe.viewmaker.draw_noise(x)
        torch.testing.assert_close(names["viewmaker"](x, noise), recipe.viewmaker(x, noise), rtol=1e-3, atol=1e-3)
        yaml = pytest.importorskip("yaml")
        built = Viewmaker(**yaml.safe_load(recipe.files()["random_viewmaker.yaml"]))
        assert torch.equal(built(x, noise), recipe.viewmaker(x, noise))
        viewaug.save(recipe.viewmaker, tmp_path / "recipe.safetensors")
        assert torch.equal(viewaug.load(tmp_path / "recipe.safetensors")(x, noise), recipe.viewmaker(x, noise))

    def test_chosen_shares_are_held(self):
        viewmaker = learned({"one_of": ["mask", "crop"], "shares": "learned"})
        with torch.no_grad():
            viewmaker.generator.numbers_head.weight.zero_()
            viewmaker.generator.numbers_head.bias.zero_()
            viewmaker.generator.numbers_head.bias[-1] = 1.0
        recipe = distil(viewmaker, signals(), views=40)
        again = explain(recipe.viewmaker, signals(), views=40, seed=1)
        name = "oneof: 1: mask [share of views]"
        assert recipe.explanation.learned[name].mean() > 0.8
        assert abs(again.learned[name].mean() - recipe.explanation.learned[name].mean()) < 0.05

    @pytest.mark.parametrize("perturbation", ["affine", "colour", "crop", "blur", ["crop", "colour", "blur", "affine"]])
    def test_kornia(self, perturbation):
        x = signals()
        recipe = distil(learned(perturbation), x, views=8)
        names = {}
        exec(recipe.files()["augmentation.py"], names)
        view = names["augmentation"](x)
        assert view.shape == x.shape
        assert not torch.equal(view, x)
        assert view.isfinite().all()
        yaml = pytest.importorskip("yaml")
        steps = yaml.safe_load(recipe.files()["augmentation.yaml"])
        built = K.AugmentationSequential(*(getattr(K, k)(**v) for step in steps for k, v in step.items()))
        torch.manual_seed(0)
        one = built(x)
        torch.manual_seed(0)
        torch.testing.assert_close(one, names["augmentation"](x))

    def test_kornias_parameters_have_the_ranges(self):
        x = torch.rand(2000, 3, 8, 8)
        recipe = distil(learned(["affine", "crop"]), signals(), views=16)
        (_, affine), (_, crop), _ = recipe.kornia
        drawn = K.RandomAffine(**affine).forward_parameters(x.shape)
        low, high = recipe.ranges["affine: rotation [°]"]
        assert drawn["angle"].min() == pytest.approx(low, abs=0.5)
        assert drawn["angle"].max() == pytest.approx(high, abs=0.5)
        for i, axis in enumerate("WH"):
            low, high = recipe.ranges[f"affine: scale {axis} [factor]"]
            assert drawn["scale"][:, i].min() == pytest.approx(low, abs=0.02)
            assert drawn["scale"][:, i].max() == pytest.approx(high, abs=0.02)
        assert crop["scale"] == pytest.approx(recipe.ranges["crop: area [share]"], rel=1e-3)
        assert crop["size"] == [16, 12]

    def test_kornia_is_for_images_without_a_budget(self):
        assert distil(learned("affine", budget=0.05), signals(), views=2).kornia is None
        assert distil(learned("colour", value_range=(0.0, 2.0)), signals(), views=2).kornia is None
        assert distil(learned("crop", 1), signals(1), views=2).kornia is None
        assert distil(learned("crop", value_range=(0.0, 2.0)), signals(), views=2).kornia is not None

    def test_what_is_lost_is_said(self):
        assert "kornia" not in " ".join(distil(learned("crop"), signals(), views=4).lost)
        assert len(distil(learned("additive", budget=0.05), signals(), views=4).lost) == 3

    def test_errors(self):
        with pytest.raises(ValueError, match="Expected `viewmaker` to have the generator 'fast' or 'random'"):
            distil(Viewmaker(generator="reference"), signals(), views=2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ranges": [[0, 1]]}, "Expected `ranges` of 3 maps and 0 numbers, but got 1"),
            ({"ranges": [[1, 0]] * 3}, "Expected each of `ranges` to be"),
            ({"ranges": [[0, math.inf]] * 3}, "Expected each of `ranges` to be"),
            ({"ranges": [0, 1, 2]}, "Expected each of `ranges` to be"),
            ({"spectrum": [[1, 0, 0, 0, 0]]}, "Expected `spectrum` of 3 maps, but got 1"),
            ({"spectrum": [[0, 0, 0, 0, 0]] * 3}, "Expected each of `spectrum` to be"),
            ({"spectrum": [[1, 0]] * 3}, "Expected each of `spectrum` to be"),
        ],
    )
    def test_options_of_the_random_generator(self, options, message):
        with pytest.raises(ValueError, match=message):
            Viewmaker(generator="random", **options)
        with pytest.raises(TypeError, match=next(iter(options))):
            Viewmaker(**options)


def checkpoint(folder, perturbation="crop", **options):
    viewaug.save(learned(perturbation, **options), folder / "viewmaker.safetensors")
    return folder / "viewmaker.safetensors"


class TestCommands:
    @pytest.fixture
    def folder(self, tmp_path):
        np.savez(tmp_path / "data.npz", x=signals().numpy(), label=np.arange(24))
        (tmp_path / "arrays").mkdir()
        np.save(tmp_path / "arrays" / "x.npy", signals().numpy())
        (tmp_path / "files").mkdir()
        for i, x in enumerate(signals()):
            np.save(tmp_path / "files" / f"{i}.npy", x.numpy())
        return tmp_path

    def call(self, command, folder, data, *more):
        names = ["--checkpoint", folder / "viewmaker.safetensors", "--data", folder / data, "--out", folder / "out"]
        return main([command, *map(str, names), *more])

    @pytest.mark.parametrize("data", ["data.npz", "arrays", "files"])
    def test_explain(self, folder, data, capsys):
        checkpoint(folder)
        self.call("explain", folder, data, "--views", "2", "--count", "10")
        out = capsys.readouterr().out
        report = (folder / "out" / "report.md").read_text()
        assert "crop: " in out
        assert "| crop: area [share] |" in report
        assert "2 views of each of 10 inputs" in report
        for name in ("results.json", "distributions.png", "place.png"):
            assert (folder / "out" / name).stat().st_size > 0
        for line in report.splitlines():
            if line.startswith("!["):
                assert (folder / "out" / line.partition("](")[2][:-1]).exists()
        assert str(folder) not in report

    def test_of_sounds(self, tmp_path):
        soundfile = pytest.importorskip("soundfile")
        soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=800) / 9, 8000)
        soundfile.write(tmp_path / "b.wav", np.random.default_rng(1).normal(size=900) / 9, 8000)
        viewmaker = Viewmaker(1, dims=1, value_range=(-1, 1), perturbation=["gain", "filter"])
        viewaug.save(viewmaker, tmp_path / "viewmaker.safetensors")
        self.call("explain", tmp_path, ".", "--views", "2")
        assert "gain [dB]" in (tmp_path / "out" / "report.md").read_text()

    def test_distil(self, folder, capsys, monkeypatch):
        checkpoint(folder)
        self.call("distil", folder, "data.npz", "--views", "4")
        out = capsys.readouterr().out
        assert "It does not hold:" in out
        for name in ("random_viewmaker.py", "random_viewmaker.yaml", "augmentation.py", "augmentation.yaml"):
            assert str(folder / "out" / name) in out
        monkeypatch.chdir(folder / "out")
        from viewaug._imports import import_function

        assert import_function("random_viewmaker:viewmaker")(signals()).shape == signals().shape

    @pytest.mark.parametrize("command", ["explain", "distil"])
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("missing", "Expected a folder, or a file"),
            ("empty", "Expected files of"),
            ("labels.npz", "cannot be read"),
            ("broken.npz", "cannot be read"),
            ("grey.npz", "Expected `x` in .* of 3 channels and 2 spatial dimensions"),
            ("bytes.npz", "value range"),
        ],
    )
    def test_errors(self, folder, command, data, message, capsys):
        checkpoint(folder)
        (folder / "empty").mkdir()
        np.savez(folder / "labels.npz", label=np.arange(3))
        (folder / "broken.npz").write_bytes(b"PK")
        np.savez(folder / "grey.npz", x=np.zeros((4, 1, 8, 8)))
        np.savez(folder / "bytes.npz", x=np.full((4, 3, 8, 8), 255, np.uint8))
        with pytest.raises(SystemExit) as raised:
            self.call(command, folder, data, "--views", "2")
        assert raised.value.code == 1
        assert re.search(message, capsys.readouterr().err)
        assert not (folder / "out").exists()

    def test_no_checkpoint(self, folder, capsys):
        with pytest.raises(SystemExit):
            self.call("explain", folder, "data.npz")
        assert "viewaug explain: Expected `path` to be a file" in capsys.readouterr().err

    def test_too_few_views(self, folder, capsys):
        checkpoint(folder)
        with pytest.raises(SystemExit):
            self.call("explain", folder, "data.npz", "--views", "1")
        assert "Expected `views` to be at least 2" in capsys.readouterr().err


def test_ones_own_perturbation_says_its_units(monkeypatch):
    class Invert(Perturbation):
        """Blends an image with its negative."""

        def needs(self, channels, dims):
            return Needs(numbers=1)

        def forward(self, x, raw):
            return x + self.magnitudes(x, raw)["inverted [share]"][:, None, None, None] * (1 - 2 * x)

        def magnitudes(self, x, raw):
            return {"inverted [share]": raw.numbers[:, 0].tanh().abs()}

    monkeypatch.setitem(PERTURBATIONS, "invert", Invert)
    recipe = distil(Viewmaker(perturbation="invert", budget=None), signals())
    assert list(recipe.ranges) == ["invert: inverted [share]"]
