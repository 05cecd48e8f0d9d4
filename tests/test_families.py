"""The strong families, choices, and views without a budget: formulas, partners, bounds, strength, adapters, errors."""

import math
import re
import warnings

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from viewaug import AdversarialAugmentation, BudgetController, JointOptimizer, Viewmaker, distortion, load, save
from viewaug.perturbations import Mask, Mix, Perturbation, Raw, build
from viewaug.perturbations.region import partners

FAMILIES = ("mix", "mask", "crop", "channels")
BOUNDED = (*FAMILIES, "warp", "affine", "colour", "blur")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(n: int = 64, size: tuple[int, ...] = (32, 32), channels: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, *size, generator=seeded(9))


def make(spec, generator: str = "random", **options) -> Viewmaker:
    torch.manual_seed(0)
    return Viewmaker(options.pop("channels", 3), perturbation=spec, generator=generator, **{"budget": None} | options)


def white(perturbation: Perturbation, channels: int, n: int, size: tuple[int, ...], seed: int = 0) -> Raw:
    needs = perturbation.needs(channels, len(size))
    maps, numbers = (
        torch.atanh(2 * torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64) - 1)
        for shape in ((needs.maps, *size), (needs.numbers,))
    )
    return Raw(maps, numbers, torch.rand(n, perturbation.draws(size), generator=seeded(seed + 1), dtype=torch.float64))


class TestRegion:
    @pytest.mark.parametrize("edge", [0.0, 0.05, 0.5, 3.0, None])
    @pytest.mark.parametrize("size", [(40,), (24, 30), (8, 9, 10)])
    def test_the_mean_weight_is_the_share(self, size, edge):
        region = Mix(share=0.8, edge=edge)
        raw = white(region, 2, 256, size)
        weight = region.weight(raw).flatten(1).mean(1)
        share = 0.4 * (1 + raw.numbers[:, 0].tanh())  # uniform up to 0.8
        assert (weight - share).abs().mean() < 0.03
        torch.testing.assert_close(weight.mean(), torch.tensor(0.4, dtype=torch.float64), rtol=0, atol=0.04)

    def test_weights_by_rank(self):
        """Against ranks by sorting, and a level found by bisection."""
        region = Mix(share=0.9, edge=0.3)
        raw = white(region, 1, 8, (64,))
        got = region.weight(raw)[:, 0].numpy()
        cells = np.arctanh(2 * raw.draws[:, :4].numpy() - 1)
        finer = raw.maps.reshape(8, 8, 8).mean(2).numpy()
        place = np.arange(64) + 0.5
        for i in range(8):
            field = np.interp(place, 16 * np.arange(4) + 8, cells[i])
            field = field + 0.5 * np.tanh(np.interp(place, 8 * np.arange(8) + 4, finer[i]))
            rank = (field.argsort().argsort() + 0.5) / 64
            share = 0.45 * (1 + math.tanh(raw.numbers[i, 0]))
            low, high = -50.0, 50.0
            ranks = (np.arange(10000) + 0.5) / 10000
            for _ in range(60):
                level = (low + high) / 2
                low, high = (level, high) if (1 / (1 + np.exp((ranks - level) / 0.3))).mean() < share else (low, level)
            distinct = np.r_[True, np.diff(field) != 0] & np.r_[np.diff(field) != 0, True]  # sorting divides ties
            expected = 1 / (1 + np.exp((rank - level) / 0.3))
            np.testing.assert_allclose(got[i][distinct], expected[distinct], rtol=0, atol=0.06)

    def test_a_hard_edge_takes_all_or_nothing(self):
        viewmaker, x = make("mix"), signal()
        noise = viewmaker.draw_noise(x, seeded())
        view = viewmaker(x, noise)
        partner = x[partners(noise[-1][:, -1])]
        own, other = (view == x).all(1), (view == partner).all(1)
        assert (own | other).all()
        assert (other.flatten(1).float().mean(1) < 0.55).all()

    def test_no_edge_is_mixup(self):
        viewmaker, x = make({"name": "mix", "edge": None, "share": 0.5}), signal()
        noise = viewmaker.draw_noise(x, seeded())
        assert [part.shape for part in noise] == [(64, 1), (64, 1)]
        share = noise[0][:, :1] / 2
        expected = torch.lerp(x, x[partners(noise[-1][:, 0])], share[..., None, None])
        torch.testing.assert_close(viewmaker(x, noise), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("fill", "inside"), [("zero", 0.0), ("mean", 0.5)])
    def test_fill(self, fill, inside):
        x = signal() * 0.2 + 0.4
        view = make({"name": "mask", "fill": fill})(x)
        changed = view != x
        means = x.mean((2, 3), keepdim=True).expand_as(x) if fill == "mean" else torch.zeros_like(x)
        torch.testing.assert_close(view[changed], means[changed])
        assert 0.15 < changed.float().mean() < 0.35

    def test_noise_has_the_deviation_of_its_channel(self):
        x = torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1) * torch.randn(64, 3, 32, 32, generator=seeded())
        view = make({"name": "mask", "fill": "noise", "share": 0.9}, value_range=None)(x)
        for channel in range(3):
            changed = (view != x)[:, channel]
            torch.testing.assert_close(view[:, channel][changed].std(), x[:, channel].std(), rtol=0.1, atol=0)

    def test_grain(self):
        """Finer cells make more pieces; stripes go through; channels are hidden as wholes."""

        def pieces(spec) -> float:
            x = signal()
            changed = (make(spec)(x) != x).any(1)
            return float(np.mean([scipy.ndimage.label(one.numpy())[1] for one in changed]))

        coarse, fine = (pieces({"name": "mask", "grain": grain}) for grain in (0.5, 2))
        assert coarse < 3
        assert fine > 5 * coarse
        x = signal()
        changed = (make({"name": "mask", "grain": (1.0, 4), "share": 0.4})(x) != x).any(1)
        assert (changed == changed[:, :1]).all()
        assert 0.1 < changed.float().mean() < 0.3
        whole = make({"name": "mask", "grain": 1.0, "channels": True, "share": 0.9}, dims=1, channels=8)
        x = signal(64, (50,), 8)
        hidden = (whole(x) != x).float().mean(2)
        assert ((hidden == 0) | (hidden == 1)).all()
        assert 0.3 < hidden.mean() < 0.6
        with pytest.raises(ValueError, match="`grain` below 1"):
            make({"name": "mask", "grain": 1.0})
        assert pieces({"name": "mask", "grain": [1, 1]}) > 5 * coarse  # of single pixels

    @pytest.mark.parametrize("fill", ["mean", "noise"])
    def test_channels_on_their_own(self, fill):
        x = signal()
        changed = make({"name": "mask", "channels": True, "fill": fill})(x) != x
        assert (changed[:, 0] != changed[:, 1]).float().mean() > 0.1
        together = make({"name": "mask", "fill": fill})(x) != x
        assert (together[:, 0] == together[:, 1]).all()

    def test_what_is_learned_leaves_the_place_random(self):
        viewmaker, x = make("mix", "fast"), signal()
        with torch.no_grad():
            for parameter in viewmaker.parameters():
                parameter.mul_(100)
        draws = [viewmaker.draw_noise(x, seeded(seed)) for seed in range(2)]
        masks = []
        for noise in draws:
            raw = viewmaker.generator(x, noise[:-1])._replace(draws=noise[-1])
            masks.append(viewmaker.perturbation.weight(raw).flatten(1) > 0.5)
        both = (masks[0] & masks[1]).float().mean()
        assert both < 0.75 * min(mask.float().mean() for mask in masks)


class TestPartners:
    def test_another_of_the_same_copy(self):
        draws = torch.rand(4000, generator=seeded())
        for copies in (1, 2, 4):
            size = 4000 // copies
            partner, place = partners(draws, copies), torch.arange(4000)
            assert (partner != place).all()
            assert torch.equal(partner // size, place // size)
        shifts = (partners(draws[:3000], 300) - torch.arange(3000)) % 10
        assert torch.equal(shifts.unique(), torch.arange(1, 10))  # all others
        assert shifts.bincount(minlength=10)[1:].float().std() < 40

    def test_views_take_nothing_from_the_same_sample(self):
        x = torch.arange(8.0).view(8, 1, 1, 1).expand(-1, 1, 16, 16) / 10
        augmentation = AdversarialAugmentation(make("mix", channels=1))
        for view in augmentation.views(x, 2):
            other = view[view != x]
            assert other.numel()
        for inputs in ([x, x], [x, x, x[:, :, :8, :8]]):
            for view, one in zip(augmentation.perturb_each(inputs, seeded()), inputs, strict=True):
                assert (view != one).flatten(1).any(1).sum() > 4
        noise = augmentation.viewmaker.draw_noise(torch.cat([x, x]), seeded())
        partner = partners(noise[-1][:, 0], 2)
        assert (partner % 8 != torch.arange(16) % 8).all()

    @pytest.mark.parametrize("generator", ["random", "fast"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_one_that_is_not_finite_never_spreads(self, bad, generator):
        viewmaker, x = make("mix", generator), signal(8)
        x[0, 1, 3, 3] = bad
        view = viewmaker(x, viewmaker.draw_noise(x, seeded()))
        assert view[1:].isfinite().all()
        assert (view != x).flatten(1).any(1)[1:].sum() >= 4

    def test_a_batch_of_one_comes_back(self):
        viewmaker, x = make(["mix"]), signal(3)
        assert torch.equal(viewmaker(x[:1]), x[:1])
        assert torch.equal(viewmaker(x, copies=3), x)

    @pytest.mark.parametrize("copies", [0, -1, 3])
    def test_copies_divide_the_batch(self, copies):
        with pytest.raises(ValueError, match="`copies` to divide the batch of 8"):
            make("mix")(signal(8), copies=copies)


class TestCrop:
    @pytest.mark.parametrize(("shape", "flipped"), [((24, 31), False), ((24, 31), True), ((7, 8, 9), False)])
    def test_formula(self, shape, flipped):
        """Against SciPy's interpolation of an image."""
        dims = len(shape)
        crop = build({"name": "crop", "area": 0.3, "ratio": 2.0})
        raw = white(crop, 2, 4, shape)._replace(draws=torch.full((4, 1), 0.1 if flipped else 0.9, dtype=torch.float64))
        x = torch.rand(4, 2, *shape, generator=seeded(), dtype=torch.float64)
        view = crop(x, raw)
        for i in range(4):
            t = raw.numbers[i].tanh().numpy()
            area = 1 - 0.7 * (1 - t[0]) / 2
            stretch = np.concatenate([[0], math.log(2) * t[1:dims]])
            side = np.minimum(np.exp(math.log(area) / dims + stretch - stretch.mean()), 1)
            places = []
            for axis, length in enumerate(shape):
                u = (np.arange(length) + 0.5) / length
                u = 1 - u if flipped and axis == dims - 1 else u
                start = (1 - side[axis]) * (1 + t[dims + axis]) / 2
                places.append((start + side[axis] * u) * length - 0.5)
            grid = np.stack(np.meshgrid(*places, indexing="ij"))
            for before, after in zip(x[i].numpy(), view[i].numpy(), strict=True):
                expected = scipy.ndimage.map_coordinates(before, grid, order=1, mode="reflect")
                np.testing.assert_allclose(after, expected, rtol=0, atol=1e-9)

    def test_of_a_series(self):
        crop = build({"name": "crop", "area": 0.5})
        raw = white(crop, 1, 16, (100,))
        ramp = torch.arange(100, dtype=torch.float64).expand(16, 1, -1)
        view = crop(ramp, raw)
        t = raw.numbers.tanh()
        length = 1 - 0.25 * (1 - t[:, 0])
        inner = view[:, 0, 2:-2].diff(dim=1)
        torch.testing.assert_close(inner, length[:, None].expand_as(inner))  # a piece, stretched, never turned round
        start = (1 - length) * (1 + t[:, 1]) / 2 * 100
        torch.testing.assert_close(view[:, 0, 50], start + length * 50.5 - 0.5)

    def test_it_begins_as_simclrs(self):
        crop = build("crop")
        raw = white(crop, 3, 4000, (1, 1))
        area = 1 - 0.92 * (1 - raw.numbers[:, 0].tanh()) / 2
        for share in (0.25, 0.75):  # uniform from 0.08 to 1
            assert area.quantile(share).item() == pytest.approx(0.08 + 0.92 * share, abs=0.03)
        x = torch.arange(8.0).expand(400, 3, 8, 8) / 8
        flipped = (make("crop")(x).diff(dim=3).mean((1, 2, 3)) < 0).float().mean()
        assert 0.4 < flipped < 0.6


class TestChannels:
    def test_a_rotation_is_proper(self):
        for triples, channels in ((False, 4), (True, 6)):
            turn = build({"name": "channels", "drop": 0.0, "exchange": 0.0, "rotate": 180, "triples": triples})
            raw = white(turn, channels, 32, (1,))
            eye = torch.eye(channels, dtype=torch.float64)[None, :].expand(32, -1, -1)
            matrix = turn(eye, raw)
            torch.testing.assert_close(matrix @ matrix.mT, eye, rtol=0, atol=1e-9)
            torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(32, dtype=torch.float64))
            assert (matrix - eye).abs().amax() > 1
            if triples:
                torch.testing.assert_close(matrix[:, :3, :3], matrix[:, 3:, 3:])
                assert not matrix[:, :3, 3:].any()

    def test_near_the_identity(self):
        turn = build({"name": "channels", "drop": 0.0, "exchange": 0.0, "rotate": 10})
        raw = white(turn, 2, 256, (1,))
        matrix = turn(torch.eye(2, dtype=torch.float64).expand(256, -1, -1), raw)
        angle = torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0]))
        torch.testing.assert_close(angle.abs().max(), torch.tensor(10.0, dtype=torch.float64), rtol=0, atol=0.5)

    def test_drops_but_never_all(self):
        drop = build({"name": "channels", "drop": 0.9, "exchange": 0.0, "rotate": 0})
        raw = white(drop, 4, 512, (1,))
        kept = drop(torch.ones(512, 4, 1, dtype=torch.float64), raw).squeeze(2)
        assert ((kept == 0) | (kept == 1)).all()
        assert (kept.sum(1) >= 1).all()
        assert kept.mean() == pytest.approx(0.1 + 0.9**4 / 4, abs=0.03)

    def test_two_change_places(self):
        swap = build({"name": "channels", "drop": 0.0, "rotate": 0, "exchange": 0.5})
        x = torch.arange(5.0, dtype=torch.float64).view(1, 5, 1).expand(600, -1, 1)
        view = swap(x, white(swap, 5, 600, (1,))).squeeze(2)
        moved = (view != x.squeeze(2)).sum(1)
        assert set(moved.tolist()) == {0, 2}
        assert (moved == 2).float().mean() == pytest.approx(0.5, abs=0.08)
        assert torch.equal(view.sort(1)[0], x.squeeze(2))

    @pytest.mark.parametrize(("options", "channels"), [({}, 1), ({"triples": True}, 4)])
    def test_errors(self, options, channels):
        with pytest.raises(ValueError, match="`channels`"):
            make({"name": "channels", **options}, channels=channels)
        if channels == 1:
            for name in ("mix", "mask"):
                with pytest.raises(ValueError, match="`channels=True`"):
                    make({"name": name, "channels": True}, channels=1)


class TestOneOf:
    @pytest.mark.parametrize(("shares", "expected"), [(None, 0.5), ([1, 3], 0.25), ("learned", 0.5)])
    @pytest.mark.parametrize("generator", ["random", "fast"])
    def test_each_view_is_one_of_them(self, shares, expected, generator):
        spec = {"one_of": [{"name": "mask", "fill": "zero"}, "blur"], **({} if shares is None else {"shares": shares})}
        viewmaker, x = make(spec, generator), signal(400, (16, 16)) + 0.1
        with torch.no_grad():
            view = viewmaker(x, viewmaker.draw_noise(x, seeded()))
        masked = ((view == x) | (view == 0)).flatten(1).all(1)
        assert masked.float().mean() == pytest.approx(expected, abs=0.07)

    def test_learned_shares_learn_within_bounds(self):
        viewmaker, x = make({"one_of": ["mask", "mix", "blur"], "shares": "learned"}, "fast"), signal(64, (16, 16))
        adam = torch.optim.Adam(viewmaker.parameters(), lr=3e-2)

        def blurred() -> float:
            noise = viewmaker.draw_noise(x, seeded())
            raw = viewmaker.generator(x, noise[:-1])
            chosen, _ = viewmaker.perturbation._choose(Raw(raw.maps, raw.numbers[:, -2:]), x)
            return float((~chosen[0] & ~chosen[1]).float().mean())

        before = blurred()
        for _ in range(60):
            adam.zero_grad()
            viewmaker(x).diff(dim=3).square().mean().backward()  # only a blur is smooth
            adam.step()
        assert before == pytest.approx(1 / 3, abs=0.15)
        assert 0.5 < blurred() < 1

    def test_each_has_the_common_budget(self):
        viewmaker, x = make({"one_of": ["additive", "mix"]}, budget=0.05), signal()
        change = distortion(x, viewmaker(x))
        assert (change <= 0.05 * (1 + 1e-5)).all()
        assert (change > 0.0499).float().mean() > 0.4

    @pytest.mark.parametrize(
        ("spec", "error", "message"),
        [
            ({"one_of": ["mix"]}, ValueError, "`one_of` to hold at least two"),
            ({"one_of": "mix"}, TypeError, "`one_of` to be a list"),
            ({"one_of": ["mix", "mask"], "shares": [1]}, ValueError, "`shares` to be 2 positive"),
            ({"one_of": ["mix", "mask"], "shares": [1, 0]}, ValueError, "`shares` to be 2 positive"),
            ({"one_of": ["mix", "mask"], "shares": "any"}, ValueError, "`shares` to be 'learned'"),
            ({"one_of": ["mix", "mask"], "share": [1, 1]}, TypeError, "`one_of` to have `shares`"),
            ({"one_of": ["mix", "magic"]}, ValueError, "but got 'magic'"),
        ],
    )
    def test_errors(self, spec, error, message):
        with pytest.raises(error, match=message):
            make(spec)


class TestNoBudget:
    @pytest.mark.parametrize("generator", ["random", "fast"])
    @pytest.mark.parametrize("name", BOUNDED)
    def test_nothing_is_blended(self, name, generator):
        viewmaker, x = make(name, generator), signal(8)
        bounded = make(name, generator, budget=1e3)
        noise = viewmaker.draw_noise(x, seeded())
        torch.testing.assert_close(viewmaker(x, noise), bounded(x, noise), rtol=0, atol=1e-6)
        assert viewmaker.budget is None

    def test_round_trip(self, tmp_path):
        for spec in ("mix", [{"name": "mix", "budget": None}, {"name": "additive", "budget": 0.1}]):
            viewmaker, x = make(spec, "fast", strength=0.5), signal(4)
            save(viewmaker, tmp_path / "viewmaker.safetensors")
            loaded, noise = load(tmp_path / "viewmaker.safetensors"), viewmaker.draw_noise(x, seeded())
            assert loaded.config == viewmaker.config
            assert (loaded.budget, loaded.strength) == (None, 0.5)
            assert torch.equal(loaded(x, noise), viewmaker(x, noise))

    def test_a_step_without_a_budget_is_not_counted(self):
        viewmaker = make([{"name": "mix", "budget": None}, "additive"], budget=0.05)
        x = signal()
        noise = viewmaker.draw_noise(x, seeded())
        mixed = make("mix")(x, noise[1:])
        torch.testing.assert_close(distortion(mixed, viewmaker(x, noise)), torch.full((64,), 0.05))

    def test_each_run_from_its_own_input(self):
        steps = ["blur", "additive", {"name": "warp", "budget": 0.02}, "spectral"]
        viewmaker, x = make(steps, budget=0.05), signal(8)
        assert len(viewmaker.perturbation.steps) == 3
        total = distortion(x, viewmaker(x))
        assert (total <= 0.05 + 0.02 + 0.05 + 1e-5).all()
        assert viewmaker.config["perturbation"][1] == {"name": "warp", "budget": 0.02}

    def test_units_of_a_steps_own_budget(self):
        viewmaker = make({"name": "additive", "budget": 0.2}, units="std", value_range=None)
        x = 7 * signal(4)
        std = x.flatten(1).std(1, correction=0)
        torch.testing.assert_close(distortion(x, viewmaker(x)), 0.2 * std, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("spec", ["additive", "spectral", ["mix", "additive"], {"one_of": ["mix", "spectral"]}])
    def test_not_for_what_nothing_else_bounds(self, spec):
        with pytest.raises(ValueError, match=r"`budget` to be a number for the perturbation (Additive|Spectral)"):
            make(spec)
        with pytest.raises(ValueError, match="`budget` to be a number"):
            make({"one_of": [spec, "mix"], "budget": None}, budget=0.05)
        viewmaker = make(spec, budget=0.05)
        with pytest.raises(ValueError, match="`budget` to be a number"):
            viewmaker.budget = None

    def test_beside_what_needs_one(self):
        with pytest.raises(ValueError, match="no `constraint` where nothing has a budget"):
            make("mix", constraint="rescale")
        with pytest.raises(ValueError, match="no `budget` for a viewmaker without one"):
            make("mix")(signal(2), budget=0.1)
        with pytest.raises(ValueError, match="no `warmup` for a viewmaker without a budget"):
            AdversarialAugmentation(make("mix"), warmup=10)
        with pytest.raises((TypeError, ValueError), match="`budget`"):
            make({"name": "mix", "budget": -1.0})

    @pytest.mark.parametrize("name", BOUNDED)
    def test_strength(self, name):
        x = torch.nn.functional.interpolate(signal(64, (4, 4)), (32, 32), mode="bilinear")
        sizes = []
        for strength in (1.0, 0.5, 0.01):
            viewmaker = make({"name": name, "flip": 0.0} if name == "crop" else name, strength=strength)
            sizes.append(distortion(x, viewmaker(x, viewmaker.draw_noise(x, seeded()))).mean().item())
        assert sizes[0] > sizes[1] > sizes[2]
        assert sizes[2] < 0.15 * sizes[0]

    @pytest.mark.parametrize("strength", [0, -1.0, 1.5, math.nan])
    def test_strength_out_of_range(self, strength):
        with pytest.raises(ValueError, match="`strength` to be above 0"):
            make("mix", strength=strength)

    def test_strength_of_what_has_a_budget(self):
        with pytest.raises(ValueError, match="`strength` for a perturbation without a budget"):
            make("mix", budget=0.05, strength=0.5)
        with pytest.raises(TypeError, match="`strength` to be a float"):
            make("mix", strength="1")


class TestController:
    def test_it_steers_the_strength(self):
        controller = BudgetController(make("mix"), unrelated=1.0, target=0.5, gain=0.1)
        assert controller.step(1.0) == pytest.approx(math.exp(-0.1))
        assert controller.viewmaker.strength == controller.value
        other = BudgetController(make("mix"), unrelated=1.0)
        other.load_state_dict(controller.state_dict())
        assert other.value == controller.value

    def test_nothing_to_steer(self):
        with pytest.raises(ValueError, match="`strength`"):
            BudgetController(make({"name": "mix", "budget": 0.1}), unrelated=1.0)

    @pytest.mark.parametrize(
        ("loss", "message"), [(1.0, "lower bound, 0.01.*larger `target`"), (0.0, "upper bound, 1, .*stronger")]
    )
    def test_it_warns_at_a_bound_once(self, loss, message):
        controller = BudgetController(make("mix"), unrelated=1.0, target=0.5, gain=0.2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(200):
                controller.step(loss)
        assert [bool(re.search(message, str(warning.message))) for warning in caught] == [True]


class TestAdapters:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_kornia(self, name):
        import kornia.augmentation as K
        from viewaug.adapters.kornia import RandomViewmaker

        pipeline = K.AugmentationSequential(K.RandomHorizontalFlip(), RandomViewmaker(make(name, "fast")))
        x = signal(8)
        view = pipeline(x)
        assert torch.equal(view, pipeline(x, params=pipeline._params))
        masked = K.AugmentationSequential(RandomViewmaker(make(name)), data_keys=["input", "mask"])
        if name in ("mix", "crop"):
            with pytest.raises(ValueError, match="no mask in `data_keys`"):
                masked(x, x[:, :1])
        else:
            assert torch.equal(masked(x, x[:, :1])[1], x[:, :1])

    @pytest.mark.parametrize("spec", [*FAMILIES, {"one_of": ["mix", "crop"]}])
    def test_they_learn_in_the_drop_in(self, spec):
        viewmaker, x = make(spec, "fast"), signal(16)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        augmentation = AdversarialAugmentation(viewmaker)
        optimizer = JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.1), viewmaker.parameters())
        before = [parameter.clone() for parameter in viewmaker.parameters()]
        a, b = augmentation.views(x, 2)
        (encoder(a) - encoder(b)).square().mean().backward()
        optimizer.step()
        moved = [not torch.equal(p, q) for p, q in zip(before, viewmaker.parameters(), strict=True)]
        assert all(moved)

    def test_the_mask_of_version_1_is_another(self):
        assert build("mask").options == Mask().options == {}
        with pytest.raises(TypeError, match="patch"):
            build({"name": "mask", "patch": 4})


def test_noise_beside_the_largest_numbers():
    viewmaker = Viewmaker(2, perturbation={"name": "mask", "fill": "noise"}, value_range=None, budget=None)
    assert viewmaker(1e30 * torch.randn(4, 2, 9, 9)).isfinite().all()
