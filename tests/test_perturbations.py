"""Every perturbation: identity, gradients, replay, budgets, an independent formula, precisions, errors, checkpoints."""

import colorsys
import copy
import itertools
import math
import pickle

import kornia.augmentation as K
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from torch import nn

from viewaug import Viewmaker, distortion, load, save
from viewaug.perturbations import PERTURBATIONS, Kornia, Mask, Needs, Perturbation, Raw, Sequential, build, describe
from viewaug.version1 import Viewmaker1

SHARPNESS = {"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5}
STRIPES = {"name": "mask", "grain": [1.0, 2]}
# For each perturbation, where it is defined: dims, then channels.
SPECS = {
    "additive": ("additive", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "spectral": ("spectral", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "colour": ("colour", {2: (1, 3, 4)}),
    "warp": ("warp", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "affine": ("affine", {2: (1, 3, 4)}),
    "blur": ("blur", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "mask": ({"name": "mask", "grain": 3}, {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "stripes": ({**STRIPES, "fill": "zero", "edge": 0.3}, {2: (1, 3)}),
    "noise": ({"name": "mask", "fill": "noise", "channels": True}, {1: (3,), 2: (3,)}),
    "mix": ("mix", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "softmix": ({"name": "mix", "edge": [0.05, 2.0]}, {1: (3,), 2: (3,), 3: (2,)}),
    "crop": ("crop", {1: (1, 3), 2: (1, 3), 3: (1, 2)}),
    "channels": ("channels", {1: (3,), 2: (3, 4), 3: (2,)}),
    "triples": ({"name": "channels", "triples": True, "rotate": 90}, {1: (6,)}),
    "one-of": ({"one_of": ["warp", ["blur", "crop"]], "shares": [1.0, 2.0]}, {1: (1,), 2: (3,)}),
    "learned-one-of": ({"one_of": ["blur", "warp", "additive"], "shares": "learned"}, {1: (2,), 2: (3,)}),
    "gain": ("gain", {1: (1, 3)}),
    "filter": ("filter", {1: (1, 3)}),
    "kornia": (SHARPNESS, {2: (1, 3, 4)}),
    "spectral-colour-warp": (["spectral", "colour", "warp"], {2: (1, 3)}),
    "gain-filter": (["gain", "filter"], {1: (2,)}),
    "additive-spectral": (["additive", "spectral"], {1: (1,), 2: (3,), 3: (1,)}),
    "kornia-mask-additive": ([SHARPNESS, ["mask", "additive"]], {2: (3,)}),
    "mix-blur": (["mix", "blur"], {1: (2,), 2: (3,)}),
}
WHERE = [
    pytest.param(spec, dims, channels, id=f"{name}-{dims}d-{channels}")
    for name, (spec, defined) in SPECS.items()
    for dims, many in defined.items()
    for channels in many
]
# One of each, in the least dimensions in which it is defined, but images before waveforms.
ONE_EACH = [
    pytest.param(spec, min(defined, key=lambda dims: (dims != 2, dims)), max(next(iter(defined.values()))), id=name)
    for name, (spec, defined) in SPECS.items()
]
# Of those that are in them: not the input for a raw output of zeros; a view depends on other samples; the gradient of
# the raw output is a relaxation's.
MOVES = {"crop", "channels", "softmix", "stripes", "triples", "one-of"}
BATCHED = {"mix", "softmix", "mix-blur"}
RELAXED = {"mask", "stripes", "noise", "channels", "triples", "learned-one-of", "kornia-mask-additive"} | BATCHED


def without(names: set[str]) -> list:
    return [case for case in WHERE if case.id.split("-1d")[0].split("-2d")[0].split("-3d")[0] not in names]


EXACT = ("additive", "spectral", ["additive", "spectral"])
SIZES = {1: (23,), 2: (9, 14), 3: (3, 6, 5)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def make(spec, dims: int = 2, channels: int = 3, **arguments) -> Viewmaker:
    torch.manual_seed(0)
    return Viewmaker(channels, dims=dims, perturbation=spec, **{"width": 8, "depth": 1, **arguments})


def ready(spec, dims: int, channels: int) -> tuple[Perturbation, Needs]:
    perturbation = build(spec)
    return perturbation, perturbation.needs(channels, dims)


def random_raw(perturbation: Perturbation, needs: Needs, x: torch.Tensor, scale: float = 1.0, seed: int = 1) -> Raw:
    generator = seeded(seed)
    maps = torch.randn(len(x), needs.maps, *x.shape[2:], generator=generator, dtype=torch.float64)
    numbers = torch.randn(len(x), needs.numbers, generator=generator, dtype=torch.float64)
    draws = torch.rand(len(x), perturbation.draws(x.shape[2:]), generator=generator, dtype=torch.float64)
    return Raw((scale * maps).to(x.dtype), (scale * numbers).to(x.dtype), draws.to(x.dtype))


def learnable(raw: Raw) -> Raw:
    return raw._replace(maps=raw.maps.requires_grad_(), numbers=raw.numbers.requires_grad_())


def candidate(viewmaker: Viewmaker, x: torch.Tensor, noise) -> torch.Tensor:
    """What the generator's output makes of the input, before any budget."""
    perturbation = viewmaker.perturbation
    shift, scale = (0.0, 1.0) if viewmaker.value_range == (0, 1) else viewmaker._scale(x)
    drawn = perturbation.draws(x.shape[2:])
    raw = viewmaker.generator(perturbation.analyse((x - shift) / scale), noise[:-1] if drawn else noise)
    raw = perturbation.twin(raw._replace(draws=noise[-1] if drawn else x.new_empty(len(x), 0)))
    return perturbation(x, raw) if perturbation.unitless else scale * perturbation(x / scale, raw)


def has_kornia(spec) -> bool:
    return isinstance(build(spec), Kornia) or (isinstance(spec, list) and any(map(has_kornia, spec)))


def smooth(field: np.ndarray, knots: int) -> np.ndarray:
    """Means of the cells of an array, along each axis, interpolated linearly between the cells' centres."""
    for axis, side in enumerate(field.shape):
        cells = min(side, knots)
        low = [i * side // cells for i in range(cells)]
        high = [-(-(i + 1) * side // cells) for i in range(cells)]
        means = np.stack([field.take(range(a, b), axis).mean(axis) for a, b in zip(low, high, strict=True)], axis)
        places = (np.arange(side) + 0.5) * cells / side - 0.5
        field = np.apply_along_axis(lambda line, p=places, c=cells: np.interp(p, np.arange(c), line), axis, means)
    return field


class TestIdentity:
    @pytest.mark.parametrize(("spec", "dims", "channels"), without(MOVES))
    def test_zero_changes_nothing(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        sizes = {1: [(1,), (2,), (33,), (128,)], 2: [(1, 1), (1, 7), (9, 16), (33, 20)], 3: [(1, 1, 1), (5, 1, 8)]}
        for size in sizes[dims]:
            if has_kornia(spec) and min(size) < 3:
                continue  # what it is of kornia's has a smallest size
            x = image(2, channels, *size)
            x = x if perturbation.unit_range else 2 * x - 1
            draws = x.new_zeros(2, perturbation.draws(size))
            zero = Raw(x.new_zeros(2, needs.maps, *size), x.new_zeros(2, needs.numbers), draws)
            torch.testing.assert_close(perturbation(x, zero), x, rtol=0, atol=2e-5)
            torch.testing.assert_close(perturbation.residual(x, zero), torch.zeros_like(x), rtol=0, atol=2e-5)

    @pytest.mark.parametrize(
        "name", [name for name, (_, made) in SPECS.items() if 1 in made.get(1, ()) and name not in MOVES]
    )
    def test_zero_changes_nothing_in_a_second_of_audio(self, name):
        perturbation, needs = ready(SPECS[name][0], 1, 1)
        x = 2 * image(1, 1, 16000) - 1
        draws = x.new_zeros(1, perturbation.draws((16000,)))
        zero = Raw(x.new_zeros(1, needs.maps, 16000), x.new_zeros(1, needs.numbers), draws)
        torch.testing.assert_close(perturbation(x, zero), x, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_anything_else_changes_something(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        x = image(4, channels, *SIZES[dims])
        assert (distortion(x, perturbation(x, random_raw(perturbation, needs, x))) > 1e-3).any()

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_residual_is_candidate_minus_input(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        x = image(2, channels, *SIZES[dims], dtype=torch.float64)
        raw = random_raw(perturbation, needs, x)
        torch.testing.assert_close(perturbation.residual(x, raw), perturbation(x, raw) - x)

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    @pytest.mark.parametrize("scale", [1e3, 1e30])
    def test_extreme_raw_output_stays_finite(self, spec, dims, channels, scale):
        perturbation, needs = ready(spec, dims, channels)
        x = image(2, channels, *SIZES[dims]).requires_grad_()
        raw = random_raw(perturbation, needs, x, scale)
        view = perturbation(x, raw)
        view.sum().backward()
        assert view.isfinite().all()
        assert x.grad.isfinite().all()


class TestGradients:
    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_every_parameter_and_the_input(self, spec, dims, channels):
        viewmaker, x = make(spec, dims, channels), image(3, channels, *SIZES[dims]).requires_grad_()
        view = viewmaker(x, viewmaker.draw_noise(x, seeded()))
        (view * torch.randn(view.shape, generator=seeded())).sum().backward()
        for name, parameter in (*viewmaker.named_parameters(), ("x", x)):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 1e-7, name

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_every_map_and_number_matters(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        x = image(16, channels, *SIZES[dims], dtype=torch.float64)  # each part of a choice is drawn
        raw = learnable(random_raw(perturbation, needs, x, 0.5))
        view = perturbation(x, raw)
        (view * torch.randn(view.shape, generator=seeded(), dtype=view.dtype)).sum().backward()
        if needs.maps:
            assert (raw.maps.grad.abs().amax((0, *range(2, x.ndim))) > 1e-9).all()
        if needs.numbers:
            assert (raw.numbers.grad.abs().amax(0) > 1e-9).all()

    @pytest.mark.parametrize(("spec", "dims", "channels"), without(RELAXED))
    def test_gradcheck(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        size = {1: (7,), 2: (4, 5), 3: (3, 2, 3)}[dims]
        x = (0.3 + 0.4 * image(2, channels, *size, dtype=torch.float64)).requires_grad_()
        raw = learnable(random_raw(perturbation, needs, x.detach(), 0.3))

        def call(x: torch.Tensor, maps: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            return perturbation(x, Raw(maps, numbers, raw.draws))

        assert torch.autograd.gradcheck(call, (x, raw.maps, raw.numbers), fast_mode=True)

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_gradcheck_of_the_input(self, spec, dims, channels):
        perturbation, needs = ready(spec, dims, channels)
        x = (
            0.3 + 0.4 * image(3, channels, *{1: (7,), 2: (4, 5), 3: (3, 2, 3)}[dims], dtype=torch.float64)
        ).requires_grad_()
        raw = random_raw(perturbation, needs, x.detach(), 0.3)
        assert torch.autograd.gradcheck(lambda x: perturbation(x, raw), x, fast_mode=True)

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    @pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
    def test_finite_on_flat_inputs(self, spec, dims, channels, level):
        viewmaker, x = make(spec, dims, channels), torch.full((2, channels, *SIZES[dims]), level, requires_grad=True)
        view = viewmaker(x)
        assert view.isfinite().all()
        view.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (*viewmaker.parameters(), x))

    def test_finite_on_grey_images(self):
        for spec in ("colour", ["spectral", "colour", "warp"]):
            viewmaker, x = make(spec), image(2, 1, 9, 14).expand(-1, 3, -1, -1).clone()
            x[:, :, :3] = x[:, :, :3].round()  # black and white
            x.requires_grad_()
            viewmaker(x).square().sum().backward()
            assert all(p.grad.isfinite().all() and p.grad.any() for p in (*viewmaker.parameters(), x))

    @pytest.mark.parametrize(("spec", "dims", "channels"), without(MOVES | RELAXED))
    def test_finite_at_rest(self, spec, dims, channels):
        """Raw outputs of exactly 0, as networks of version 1 can make them."""
        viewmaker = Viewmaker1(channels, dims=dims, perturbation=spec, width=8, depth=1)
        x = image(2, channels, *SIZES[dims])
        for head in (viewmaker.generator.head, viewmaker.generator.numbers_head):
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        view = viewmaker(x)
        torch.testing.assert_close(view, x, rtol=0, atol=2e-5)
        view.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in viewmaker.parameters())

    @pytest.mark.parametrize("spec", ["colour", "affine", ["additive", "colour"], [SHARPNESS, "warp"]], ids=str)
    @pytest.mark.parametrize("generator", ["fast", "reference"])
    def test_both_generators(self, generator, spec):
        torch.manual_seed(0)
        viewmaker, x = Viewmaker(generator=generator, perturbation=spec), image(2, 3, 13, 18)
        view = viewmaker(x)
        assert (distortion(x, view) <= 0.05 + 1e-6).all()
        (view * torch.randn(view.shape, generator=seeded())).sum().backward()
        for name, parameter in viewmaker.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A bias before an instance norm is cancelled by it.
            if not (generator == "reference" and name.endswith("conv.bias")):
                assert parameter.grad.abs().max() > 1e-8, name


class TestReplay:
    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_by_noise(self, spec, dims, channels):
        viewmaker, x = make(spec, dims, channels), image(2, channels, *SIZES[dims])
        noise, other = (viewmaker.draw_noise(x, seeded(seed)) for seed in (1, 2))
        view = viewmaker(x, noise)
        viewmaker(x, other)
        assert torch.equal(view, viewmaker(x, noise))
        assert torch.equal(view, copy.deepcopy(viewmaker).eval()(x, noise))
        assert (distortion(view, viewmaker(x, other)) > 1e-5).any()

    @pytest.mark.parametrize(("spec", "dims", "channels"), without(BATCHED))
    def test_a_sample_does_not_depend_on_others(self, spec, dims, channels):
        viewmaker, x = make(spec, dims, channels), image(2, channels, *SIZES[dims])
        noise = viewmaker.draw_noise(x, seeded(1))
        part = tuple(field[:1] for field in noise)
        torch.testing.assert_close(viewmaker(x[:1], part), viewmaker(x, noise)[:1], rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    def test_global_random_state_is_left_alone(self, spec, dims, channels):
        x, noise = (
            image(2, channels, *SIZES[dims]),
            make(spec, dims, channels).draw_noise(image(2, channels, *SIZES[dims])),
        )
        viewmaker, before = make(spec, dims, channels), torch.get_rng_state()
        perturbation, needs = ready(spec, dims, channels)
        perturbation(x, random_raw(perturbation, needs, x))
        viewmaker(x, noise)
        assert torch.equal(torch.get_rng_state(), before)


class TestBudget:
    @pytest.mark.parametrize(("spec", "dims", "channels"), WHERE)
    @pytest.mark.parametrize("budget", [1e-3, 0.05])
    def test_never_exceeded(self, spec, dims, channels, budget):
        viewmaker, x = make(spec, dims, channels, budget=budget), image(4, channels, *SIZES[dims])
        with torch.no_grad():
            for weight in viewmaker.generator.parameters():
                weight.mul_(2)  # a candidate that is far away
        view = viewmaker(x)
        realised = distortion(x, view)
        assert (realised <= budget * (1 + 1e-5)).all()
        assert (realised > 0).any()  # a random mask may leave a small input as it is
        assert view.min() >= 0
        assert view.max() <= 1
        if spec in EXACT:
            torch.testing.assert_close(realised, torch.full((4,), budget), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(("spec", "dims", "channels"), without({"learned-one-of"}))
    def test_scaled_down_only(self, spec, dims, channels):
        unit = build(spec).unit_range
        viewmaker = make(spec, dims, channels, value_range=(0, 1) if unit else None)
        x = 0.2 + 0.6 * image(4, channels, *SIZES[dims], dtype=torch.float64)
        viewmaker, noise = viewmaker.double(), viewmaker.draw_noise(x, seeded())
        with torch.no_grad():
            wanted = candidate(viewmaker, x, noise)
            wanted = wanted.clamp(0, 1) if unit else wanted
            full = distortion(x, wanted)
            # One sample gets half of what it wants, the others more than that.
            first = full.argmax()
            budget = (3 * full).clamp(min=1e-6)
            budget[first] = full[first] / 2
            view = viewmaker(x, noise, budget=budget)
        torch.testing.assert_close(distortion(x, view)[first], full[first] / 2)
        if not unit:
            torch.testing.assert_close(view[first] - x[first], (wanted[first] - x[first]) / 2)
        rest = torch.arange(4) != first
        if spec in EXACT:
            torch.testing.assert_close(view[rest] - x[rest], 3 * (wanted[rest] - x[rest]))
        else:
            torch.testing.assert_close(view[rest], wanted[rest], rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("spec", "dims", "channels"), [case for case in WHERE if case.values[0] not in EXACT])
    @pytest.mark.parametrize("constraint", ["fit", "rescale", "project"])
    def test_candidate_itself_under_a_huge_budget(self, spec, dims, channels, constraint):
        low, high = value_range = (0, 1) if build(spec).unit_range else (-100, 100)
        viewmaker = make(spec, dims, channels, budget=100.0, constraint=constraint, value_range=value_range)
        x = 0.2 + 0.6 * image(2, channels, *SIZES[dims])
        noise = viewmaker.draw_noise(x, seeded())
        wanted = candidate(viewmaker, x, noise).clamp(low, high)
        assert (distortion(x, wanted) > 1e-6).any()
        torch.testing.assert_close(viewmaker(x, noise), wanted, rtol=0, atol=1e-6)

    def test_steps_share_one_budget(self):
        viewmaker, x = make(["additive", "spectral", "additive"]), image(2, 3, 9, 14)
        torch.testing.assert_close(distortion(x, viewmaker(x)), torch.full((2,), 0.05))


class TestFormula:
    """Each against another implementation, or plain loops."""

    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_additive(self, dims):
        perturbation, needs = ready("additive", dims, 2)
        x = image(2, 2, *SIZES[dims], dtype=torch.float64)
        raw = random_raw(perturbation, needs, x)
        np.testing.assert_allclose(perturbation(x, raw).numpy(), x.numpy() + np.tanh(raw.maps.numpy()))

    @pytest.mark.parametrize("norm", ["ortho", None])
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_spectral(self, dims, norm):
        perturbation, needs = ready({"name": "spectral", "norm": norm}, dims, 2)
        x = image(2, 2, *SIZES[dims], dtype=torch.float64)
        raw = random_raw(perturbation, needs, x)
        axes = tuple(range(2, 2 + dims))
        coefficients = scipy.fft.dctn(x.numpy(), axes=axes, norm=norm)
        expected = scipy.fft.idctn(coefficients + np.tanh(raw.maps.numpy()), axes=axes, norm=norm)
        np.testing.assert_allclose(perturbation(x, raw).numpy(), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(perturbation.analyse(x).numpy(), coefficients, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("scale", [0.5, 2.0, 20.0])
    def test_colour(self, channels, scale):
        perturbation, needs = ready("colour", 2, channels)
        x = image(4, channels, 5, 7, dtype=torch.float64)
        x[:, :, 0] = x[:, :, 0].round()
        x[:, :, 1] = 3 * x[:, :, 1] - 1
        raw = random_raw(perturbation, needs, x, scale)
        assert needs == Needs(0, 5 if channels == 3 else 3)
        shares = np.tanh(raw.numbers.numpy())
        expected = x.numpy().copy()
        for sample, share in zip(expected, shares, strict=True):
            base = sample.clip(1e-3, 1)
            y = (base + share[0] / 2).clip(0, 1)
            y = (y * (1 + share[1])).clip(0, 1)
            y = np.maximum(y, 1e-3) ** 3.0 ** share[2]
            if channels == 3:
                for i, j in itertools.product(range(5), range(7)):
                    h, s, v = colorsys.rgb_to_hsv(*y[:, i, j])
                    y[:, i, j] = colorsys.hsv_to_rgb((h + share[4] / 2) % 1, min(s * (1 + share[3]), 1), v)
            sample += y - base
        np.testing.assert_allclose(perturbation(x, raw).numpy(), expected, rtol=0, atol=1e-6)

    def test_colour_one_at_a_time(self):
        perturbation = build("colour")
        perturbation.needs(3, 2)
        x = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64).view(1, 3, 1, 1)
        for place, end, expected in (
            (0, 1, (0.8, 0.7, 0.6)),  # brighter by 1/2
            (0, -1, (0, 0, 0)),  # darker by 1/2, and cut off at black
            (1, 1, (0.6, 0.4, 0.2)),  # twice the contrast
            (1, -1, (0, 0, 0)),
            (2, 1, (0.027, 0.008, 0.001)),  # gamma 3
            (2, -1, tuple(v ** (1 / 3) for v in (0.3, 0.2, 0.1))),
            (3, 1, (0.3, 0.15, 0)),  # twice the saturation, which was 2/3, and no more than 1
            (3, -1, (0.3, 0.3, 0.3)),
            (4, 1, (0.1, 0.2, 0.3)),  # half round
            (4, -1, (0.1, 0.2, 0.3)),
        ):
            numbers = torch.zeros(1, 5, dtype=torch.float64)
            numbers[0, place] = 50.0 * end
            view = perturbation(x, Raw(x.new_empty(1, 0, 1, 1), numbers))
            torch.testing.assert_close(view.flatten(), x.new_tensor(expected), rtol=0, atol=1.1e-3)  # black is 0.001

    @pytest.mark.parametrize(
        ("size", "knots", "reach"),
        [((29,), 4, 0.25), ((9, 14), 4, 0.25), ((17, 6), 3, 0.1), ((3, 5), 8, 1.0), ((6, 9, 5), 2, 0.2)],
    )
    def test_warp(self, size, knots, reach):
        dims = len(size)
        perturbation, needs = ready({"name": "warp", "knots": knots, "reach": reach}, dims, 2)
        assert needs == Needs(dims, 0)
        x = image(2, 2, *size, dtype=torch.float64)
        raw = random_raw(perturbation, needs, x, 3.0)
        places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
        view = perturbation(x, raw).numpy()
        for sample, fields, got in zip(x.numpy(), raw.maps.numpy(), view, strict=True):
            shift = np.stack([np.tanh(smooth(field, knots)) for field in fields])[::-1]  # last axis first
            moved = places + reach * np.array(size).reshape(-1, *(1,) * dims) * shift
            for before, after in zip(sample, got, strict=True):
                expected = scipy.ndimage.map_coordinates(before, moved, order=1, mode="reflect")
                np.testing.assert_allclose(after, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [(16, 16), (11, 24), (30, 7)])
    @pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
    def test_affine(self, size, scale):
        perturbation, needs = ready("affine", 2, 2)
        x = image(3, 2, *size, dtype=torch.float64)
        raw = random_raw(perturbation, needs, x, scale)
        height, width = size
        view = perturbation(x, raw).numpy()
        for sample, share, got in zip(x.numpy(), np.tanh(raw.numbers.numpy()), view, strict=True):
            angle, (kx, ky) = math.radians(30) * share[0], np.tan(math.radians(15) * share[3:5])
            # Of (x, y), y down, about the centre: shear x by y and then y by x, scale, turn clockwise, translate.
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            shear = np.array([[1, 0], [-ky, 1]]) @ np.array([[1, -kx], [0, 1]])
            inverse = np.linalg.inv(turn @ np.diag(1.5 ** share[1:3]) @ shear)
            shift, centre = share[5:7] * (width, height) / 4, np.array([width - 1, height - 1]) / 2
            offset = centre - inverse @ (centre + shift)
            for before, after in zip(sample, got, strict=True):
                expected = scipy.ndimage.affine_transform(
                    before, inverse[::-1, ::-1], offset[::-1], order=1, mode="reflect"
                )
                np.testing.assert_allclose(after, expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("size", [(1,), (20,), (513,), (9, 14), (3, 6, 5)])
    def test_blur(self, size):
        dims = len(size)
        perturbation, needs = ready({"name": "blur", "sigma": 3.0}, dims, 2)
        assert needs == Needs(0, dims)
        x = image(2, 2, *size, dtype=torch.float64)
        raw = random_raw(perturbation, needs, x)
        expected = x.numpy()
        for axis, side in enumerate(size, start=2):
            doubled = np.fft.fft(np.concatenate([expected, np.flip(expected, axis)], axis), axis=axis)
            sigma = 3.0 * np.tanh(raw.numbers.numpy()[:, axis - 2])
            response = np.exp(-0.5 * np.outer(sigma, 2 * np.pi * np.fft.fftfreq(2 * side)) ** 2)
            shape = [2, 1, *(2 * side if i == axis else 1 for i in range(2, 2 + dims))]
            expected = np.fft.ifft(doubled * response.reshape(shape), axis=axis).real.take(range(side), axis)
        np.testing.assert_allclose(perturbation(x, raw).numpy(), expected, rtol=0, atol=1e-10)

    def test_blur_by_a_kernel(self):
        perturbation, _ = ready("blur", 2, 1)
        x = image(1, 1, 24, 31, dtype=torch.float64)
        view = perturbation(x, Raw(x[:, :0], torch.tensor([[0.5, -2.0]], dtype=torch.float64)))
        expected = scipy.ndimage.gaussian_filter(
            x[0, 0].numpy(), (4 * math.tanh(0.5), 4 * math.tanh(2.0)), mode="reflect", truncate=8
        )
        np.testing.assert_allclose(view[0, 0].numpy(), expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("side", "knots"), [(64, 16), (50, 16), (5, 16), (1, 4), (33, 1)])
    def test_gain(self, side, knots):
        perturbation, needs = ready({"name": "gain", "knots": knots}, 1, 3)
        assert needs == Needs(3, 0)
        x = image(2, 3, side, dtype=torch.float64) - 0.5
        raw = random_raw(perturbation, needs, x, 3.0)
        gain = [[4 ** np.tanh(smooth(field, knots)) for field in fields] for fields in raw.maps.numpy()]
        np.testing.assert_allclose(perturbation(x, raw).numpy(), x.numpy() * gain, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("bands", [2, 16])
    @pytest.mark.parametrize("side", [64, 65, 6, 1])
    def test_filter(self, side, bands):
        perturbation, needs = ready({"name": "filter", "bands": bands}, 1, 3)
        assert needs == Needs(0, 3 * bands)
        x = image(2, 3, side, dtype=torch.float64)
        raw = random_raw(perturbation, needs, x)
        level = math.log(4) * np.tanh(raw.numbers.numpy().reshape(2, 3, bands))
        known, wanted = np.linspace(0, 0.5, bands), np.fft.rfftfreq(side)  # in cycles a sample
        response = np.exp([[np.interp(wanted, known, channel) for channel in sample] for sample in level])
        expected = np.fft.irfft(np.fft.rfft(x.numpy()) * response, side)
        np.testing.assert_allclose(perturbation(x, raw).numpy(), expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("share", [-1.0, -0.4, 0.0, 0.7, 1.0])
    @pytest.mark.parametrize("gate", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize(
        ("op", "arguments", "parameter", "low", "high"),
        [
            ("RandomSharpness", {"sharpness": 0.5}, "sharpness", 0, 0.5),
            ("RandomBrightness", {"brightness": (0.6, 1.2)}, "brightness_factor", 0.6, 1.2),
            ("RandomGamma", {"gamma": (0.5, 2.0)}, "gamma_factor", 0.5, 2.0),
            ("RandomGaussianBlur", {"kernel_size": (3, 5), "sigma": (0.5, 2.0)}, "sigma", 0.5, 2.0),
            ("RandomRotation", {"degrees": 20.0}, "degrees", -20, 20),
        ],
    )
    def test_kornia(self, op, arguments, parameter, low, high, share, gate):
        perturbation, needs = ready({"name": "kornia", "op": op, **arguments}, 2, 3)
        assert needs == Needs(0, 2)
        x = 0.2 + 0.6 * image(2, 3, 12, 9)
        raw = torch.tensor([gate, share]).clamp(-1 + 1e-6, 1 - 1e-6).atanh().expand(2, -1)
        theirs = getattr(K, op)(**arguments, p=1.0)
        params = theirs.forward_parameters(x.shape)
        params[parameter] = torch.full((2,), (low + high) / 2 + share * (high - low) / 2)
        expected = x + gate * (theirs(x, params=params) - x)
        # The range is found by drawing, which does not quite reach its ends.
        torch.testing.assert_close(perturbation(x, Raw(x[:, :0], raw)), expected, rtol=0, atol=0.01)

    def test_kornia_range_is_linear_and_within_bounds(self):
        perturbation, _ = ready({"name": "kornia", "op": "RandomBrightness", "brightness": (0.6, 1.2)}, 2, 1)
        shares = torch.linspace(-1, 1, 9, dtype=torch.float64)
        x = torch.full((9, 1, 3, 3), 0.5, dtype=torch.float64)
        raw = torch.stack([torch.full_like(shares, 50), shares.clamp(-1 + 1e-12, 1 - 1e-12).atanh()], 1)
        factors = (perturbation(x, Raw(x[:, :0], raw)) - x).amax((1, 2, 3)) + 1
        torch.testing.assert_close(factors, torch.linspace(factors[0], factors[-1], 9, dtype=torch.float64))
        assert 0.6 <= factors[0] < 0.61
        assert 1.19 < factors[-1] <= 1.2

    @pytest.mark.parametrize(
        ("specs", "dims", "channels"),
        [
            (["spectral", "colour", "warp"], 2, 3),
            (["warp", "colour", "spectral"], 2, 3),
            (["gain", "filter"], 1, 2),
            ([SHARPNESS, "affine", "colour", STRIPES, "crop"], 2, 3),
        ],
        ids=str,
    )
    def test_sequence_is_one_after_the_other(self, specs, dims, channels):
        sequence, total = ready(specs, dims, channels)
        steps, needs = zip(*(ready(spec, dims, channels) for spec in specs), strict=True)
        assert total == Needs(*(sum(many) for many in zip(*needs, strict=True)))
        expected = x = image(2, channels, *SIZES[dims], dtype=torch.float64)
        raw = random_raw(sequence, total, x)
        maps, numbers, draws, _ = raw
        for step, need in zip(steps, needs, strict=True):
            drawn = step.draws(x.shape[2:])
            expected = step(expected, Raw(maps[:, : need.maps], numbers[:, : need.numbers], draws[:, :drawn]))
            maps, numbers, draws = maps[:, need.maps :], numbers[:, need.numbers :], draws[:, drawn:]
        torch.testing.assert_close(sequence(x, raw), expected, rtol=0, atol=1e-12)


class TestPrecision:
    @pytest.mark.parametrize(("spec", "dims", "channels"), ONE_EACH)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_modules(self, spec, dims, channels, dtype):
        viewmaker, x = make(spec, dims, channels).to(dtype), image(2, channels, *SIZES[dims], dtype=dtype)
        view = viewmaker(x)
        assert view.dtype == dtype
        assert view.isfinite().all()
        assert (distortion(x, view) <= 0.05 * (1 + 1e-6) + torch.finfo(dtype).eps).all()
        view.sum().backward()
        assert all(p.grad.isfinite().all() for p in viewmaker.parameters())

    @pytest.mark.parametrize(("spec", "dims", "channels"), ONE_EACH)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast(self, spec, dims, channels, dtype):
        viewmaker, x = make(spec, dims, channels), image(2, channels, *SIZES[dims])
        noise = viewmaker.draw_noise(x, seeded())
        with torch.autocast("cpu", dtype):
            view = viewmaker(x, noise)
        assert view.dtype == torch.float32
        assert (distortion(x, view) <= 0.05 * (1 + 1e-5)).all()
        # a hard edge may be an element off
        assert ((view - viewmaker(x, noise)).abs() > 0.02).float().mean() < 0.01
        view.sum().backward()
        assert all(p.grad.isfinite().all() for p in viewmaker.parameters())

    @pytest.mark.parametrize(("spec", "dims", "channels"), ONE_EACH)
    def test_empty_batch(self, spec, dims, channels):
        shape = (0, channels, *SIZES[dims])
        assert make(spec, dims, channels)(torch.zeros(shape)).shape == shape

    @pytest.mark.parametrize(("spec", "dims", "channels"), ONE_EACH)
    def test_channels_last(self, spec, dims, channels):
        viewmaker, x = make(spec, dims, channels), image(2, channels, *SIZES[dims])
        strided = x.movedim(1, -1).contiguous().movedim(-1, 1)
        noise = viewmaker.draw_noise(x, seeded())
        torch.testing.assert_close(viewmaker(strided, noise), viewmaker(x, noise), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("spec", "dims", "channels"), ONE_EACH)
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_bad_sample_stays_alone(self, spec, dims, channels, bad):
        viewmaker, x = make(spec, dims, channels), image(3, channels, *SIZES[dims])
        noise = viewmaker.draw_noise(x, seeded())
        expected = viewmaker(x, noise)
        x[1].view(-1)[3] = bad
        view = viewmaker(x, noise)
        assert view[::2].isfinite().all()
        if spec not in ("mix", SPECS["softmix"][0], ["mix", "blur"]):
            assert torch.equal(view[::2], expected[::2])

    @pytest.mark.parametrize(
        ("spec", "size"),
        [
            (["additive", "spectral", "colour", "warp", "affine", "blur", "mask", "mix", "crop", "channels"], (9, 14)),
            ([{"one_of": ["mix", STRIPES], "shares": "learned", "budget": None}, "additive"], (9, 14)),
            (["spectral", "blur", "warp", "gain", "filter"], (513,)),  # by an FFT
        ],
        ids=["images", "choice", "waveforms"],
    )
    def test_compile(self, spec, size):
        viewmaker, x = make(spec, len(size)), image(2, 3, *size)
        noise = viewmaker.draw_noise(x, seeded())
        expected = viewmaker(x, noise)
        torch._dynamo.reset()
        view = torch.compile(viewmaker, fullgraph=True, backend="aot_eager")(x, noise)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
        view.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in viewmaker.parameters())


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("spectral", "norm", "forward"),
            ("spectral", "band", (0.5, 0.5)),
            ("spectral", "band", (0.6, 0.2)),
            ("spectral", "band", (-0.1, 1.0)),
            ("spectral", "band", (0.0, 1.1)),
            ("spectral", "band", (0.0, 0.5, 1.0)),
            ("spectral", "band", (0.0, math.nan)),
            ("warp", "knots", 0),
            ("warp", "reach", 0.0),
            ("warp", "reach", 1.5),
            ("warp", "reach", math.nan),
            ("blur", "sigma", 0.0),
            ("blur", "sigma", -1.0),
            ("blur", "sigma", math.inf),
            ("blur", "sigma", math.nan),
            ("mask", "grain", 0),
            ("mask", "grain", 0.0),
            ("mask", "grain", 1.5),
            ("mask", "grain", "4"),
            ("mask", "grain", True),
            ("mask", "share", 0),
            ("mask", "share", 1.0),
            ("mask", "share", "0.5"),
            ("mask", "fill", "black"),
            ("mix", "share", 1.5),
            ("mix", "edge", -1.0),
            ("mix", "edge", (0.0, 1.0)),
            ("mix", "edge", (2.0, 1.0)),
            ("mix", "edge", (1.0, 2.0, 3.0)),
            ("mix", "edge", math.inf),
            ("crop", "area", 0.0),
            ("crop", "area", 1.0),
            ("crop", "ratio", 0.5),
            ("crop", "flip", 1.5),
            ("channels", "drop", 1.0),
            ("channels", "rotate", 181),
            ("channels", "exchange", -0.1),
            ("gain", "knots", 0),
            ("filter", "bands", 1),
        ],
    )
    def test_bad_option(self, name, option, value):
        with pytest.raises(ValueError, match=rf"`{option}` to be .*, but got"):
            build({"name": name, option: value})

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("spectral", "band", 0.5),
            ("warp", "knots", 2.5),
            ("warp", "reach", "0.1"),
            ("blur", "sigma", "4"),
            ("crop", "area", "0.1"),
            ("channels", "drop", "0.1"),
            ("gain", "knots", 2.5),
            ("filter", "bands", 2.5),
        ],
    )
    def test_option_of_the_wrong_type(self, name, option, value):
        with pytest.raises((TypeError, ValueError), match=option):
            build({"name": name, option: value})

    @pytest.mark.parametrize("name", PERTURBATIONS)
    def test_unknown_option(self, name):
        given = {"op": "RandomSharpness"} if name == "kornia" else {}
        with pytest.raises(TypeError, match=rf"`perturbation` to hold options of '{name}', but got .*nonsense"):
            build({"name": name, "nonsense": 1, **given})

    @pytest.mark.parametrize(
        ("spec", "error", "message"),
        [
            ("magic", ValueError, "`perturbation` to be one of 'additive', 'spectral', .*, but got 'magic'"),
            ({"name": "magic"}, ValueError, "but got 'magic'"),
            ({"grain": 4}, ValueError, "`perturbation` to be one of .*, but got None"),
            (["additive", "magic"], ValueError, "but got 'magic'"),
            ([], ValueError, "at least one"),
            (3, TypeError, "`perturbation` to be a name, .*, but got int"),
            (None, TypeError, "but got NoneType"),
            (["additive", 3], TypeError, "but got int"),
            (Mask, TypeError, "`perturbation`"),
            ({"name": "kornia"}, TypeError, "'op'"),
            ({"name": "kornia", "op": "RandomMagic"}, TypeError, "`op` to name .*, but got 'RandomMagic'"),
            ({"name": "kornia", "op": "ImageSequential"}, TypeError, "`op`"),
            ({"name": "kornia", "op": "RandomMotionBlur3D"}, TypeError, "`op`"),
            ({"name": "kornia", "op": "RandomMixUpV2"}, TypeError, "`op`"),
            ({"name": "kornia", "op": nn.Linear(2, 2)}, TypeError, "`op` to be .*, but got Linear"),
            ({"name": "kornia", "op": K.RandomSharpness}, TypeError, "`op`"),
            ({"name": "kornia", "op": None}, TypeError, "`op` to be .*, but got NoneType"),
        ],
    )
    def test_bad_spec(self, spec, error, message):
        with pytest.raises(error, match=message):
            make(spec)

    @pytest.mark.parametrize(
        ("spec", "dims", "allowed"),
        [
            *(("colour", dims, "2") for dims in (1, 3)),
            *(("affine", dims, "2") for dims in (1, 3)),
            *((SHARPNESS, dims, "2") for dims in (1, 3)),
            *((name, dims, "1") for name in ("gain", "filter") for dims in (2, 3)),
            (["spectral", "colour"], 1, "2"),
            (["gain", "colour"], 2, "a number that all its steps share"),
        ],
        ids=str,
    )
    def test_dims(self, spec, dims, allowed):
        with pytest.raises(ValueError, match=f"`dims` to be {allowed} for the perturbation .*, but got {dims}"):
            make(spec, dims, 1)

    @pytest.mark.parametrize("spec", ["colour", SHARPNESS, ["warp", "colour"], [["additive", SHARPNESS]]], ids=str)
    def test_value_range(self, spec):
        with pytest.raises(
            ValueError, match=r"`value_range` to be \(low, high\) for the perturbation .*, but got None"
        ):
            make(spec, value_range=None)
        with pytest.raises(ValueError, match=r"`value_range` to be \(0, 1\) for the perturbation"):
            make(spec, value_range=(0, 255), units="raw")

    @pytest.mark.parametrize("op", ["RandomRotation", "RandomAffine"])
    def test_any_value_range_for_geometry_of_kornias(self, op):
        viewmaker = make({"name": "kornia", "op": op, "degrees": 20.0}, value_range=(-3.0, 3.0), budget=10.0)
        x = 6 * image(2, 3, 9, 14) - 3
        noise = viewmaker.draw_noise(x)
        torch.testing.assert_close(viewmaker(x, noise), candidate(viewmaker, x, noise), rtol=0, atol=1e-5)
        assert viewmaker(x, noise).min() < -1

    def test_a_perturbation_may_serve_two_viewmakers(self):
        for spec in (["additive", "mask"], SHARPNESS, "colour"):
            shared = build(spec)
            colour, grey = make(shared, channels=3), make(shared, channels=1)
            assert colour(image(2, 3, 9, 14)).shape == (2, 3, 9, 14), spec
            assert grey(image(2, 1, 9, 14)).shape == (2, 1, 9, 14), spec


# Arguments of each operation, by place.
ACCEPTED = {
    "ColorJiggle": (0.3, 0.3, 0.3, 0.1),
    "ColorJitter": (0.3, 0.3, 0.3, 0.1),
    "RandomAffine": (20.0, (0.1, 0.1), (0.8, 1.2), 10.0),
    "RandomBrightness": ((0.5, 1.5),),
    "RandomContrast": ((0.5, 1.5),),
    "RandomElasticTransform": (),
    "RandomGamma": ((0.5, 1.5),),
    "RandomGaussianBlur": ((3, 3), (0.5, 2.0)),
    "RandomGaussianNoise": (),
    "RandomHue": ((-0.3, 0.3),),
    "RandomJPEG": ((20.0, 80.0),),
    "RandomMotionBlur": (3, 35.0, 0.5),
    "RandomPerspective": (0.3,),
    "RandomRGBShift": (),
    "RandomRotation": (30.0,),
    "RandomSaturation": ((0.5, 1.5),),
    "RandomSharpness": (0.5,),
    "RandomShear": (20.0,),
    "RandomSolarize": (),
    "RandomThinPlateSpline": (),
    "RandomTranslate": ((0.1, 0.2), (0.1, 0.2)),
}
REFUSED = {
    "RandomChannelShuffle": (),
    "RandomClahe": (),
    "RandomCrop": ((16, 16),),
    "RandomEqualize": (),
    "RandomErasing": (),
    "RandomGrayscale": (),
    "RandomHorizontalFlip": (),
    "RandomInvert": (),
    "RandomPosterize": ((3, 5),),
    "RandomResizedCrop": ((16, 16),),
    "RandomSaltAndPepperNoise": (),
}


class TestKornia:
    @pytest.mark.parametrize("op", ACCEPTED)
    def test_accepted(self, op):
        viewmaker, x = make(Kornia(getattr(K, op)(*ACCEPTED[op]))), image(3, 3, 17, 22)
        before = torch.get_rng_state()
        noise = viewmaker.draw_noise(x, seeded())
        view = viewmaker(x, noise)
        assert torch.equal(torch.get_rng_state(), before)
        assert (distortion(x, view) <= 0.05 * (1 + 1e-5)).all()
        assert (distortion(x, view) > 1e-5).all()
        (view * torch.randn(view.shape, generator=seeded())).sum().backward()
        for name, parameter in viewmaker.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        assert not [name for name in viewmaker.state_dict() if not name.startswith("generator.")]
        for copied in (copy.deepcopy(viewmaker), pickle.loads(pickle.dumps(viewmaker))):
            assert torch.equal(copied(x, noise), view)

    @pytest.mark.parametrize("op", ACCEPTED)
    def test_gradient_is_that_of_central_differences(self, op):
        perturbation, needs = ready(Kornia(getattr(K, op)(*ACCEPTED[op])), 2, 3)
        x = 0.2 + 0.6 * image(2, 3, 16, 17, dtype=torch.float64)
        weight = torch.randn(x.shape, generator=seeded(), dtype=x.dtype)
        raw = learnable(random_raw(perturbation, needs, x, 0.5))

        def loss(raw: Raw) -> torch.Tensor:
            return (weight * perturbation(x, raw)).sum()

        loss(raw).backward()
        for place in range(needs.numbers):
            step = torch.zeros_like(raw.numbers)
            step[:, place] = 1e-6
            with torch.no_grad():
                slope = (loss(Raw(raw.maps, raw.numbers + step)) - loss(Raw(raw.maps, raw.numbers - step))) / 2e-6
            torch.testing.assert_close(raw.numbers.grad[:, place].sum(), slope, rtol=1e-3, atol=1e-5)
        if needs.maps:
            step = 1e-6 * torch.randn(raw.maps.shape, generator=seeded(), dtype=x.dtype)
            with torch.no_grad():
                change = loss(Raw(raw.maps + step, raw.numbers)) - loss(Raw(raw.maps - step, raw.numbers))
            torch.testing.assert_close((raw.maps.grad * step).sum(), change / 2, rtol=1e-3, atol=1e-10)

    @pytest.mark.parametrize("op", ACCEPTED)
    def test_bad_sample_stays_alone(self, op):
        viewmaker, x = make(Kornia(getattr(K, op)(*ACCEPTED[op]))), image(3, 3, 16, 17)
        noise = viewmaker.draw_noise(x, seeded())
        expected = viewmaker(x, noise)
        x[1, 0, 4, 4] = math.nan
        torch.testing.assert_close(viewmaker(x, noise)[::2], expected[::2], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("op", REFUSED)
    def test_refused(self, op):
        with pytest.raises(ValueError, match=rf"`op` to .*, but {op} (draws no real number|has no gradient|does not)"):
            make(Kornia(getattr(K, op)(*REFUSED[op])))

    @pytest.mark.parametrize("op", [*ACCEPTED, *REFUSED])
    def test_building_leaves_the_random_state_alone(self, op):
        theirs, before = getattr(K, op)(*{**ACCEPTED, **REFUSED}[op]), torch.get_rng_state()
        if op in ACCEPTED:
            ready(Kornia(theirs), 2, 3)
        else:
            with pytest.raises(ValueError, match="`op`"):
                ready(Kornia(theirs), 2, 3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_callers_augmentation_is_not_touched(self):
        theirs = K.RandomAffine(20.0, p=0.25, same_on_batch=True, keepdim=True)
        known = set(vars(theirs))
        viewmaker, x = make(Kornia(theirs)), image(2, 3, 9, 14)
        viewmaker(x).sum().backward()
        assert (theirs.p, theirs.same_on_batch, theirs.keepdim) == (0.25, True, True)
        assert theirs._params == {}
        assert set(vars(theirs)) == known
        assert viewmaker(x).shape == x.shape

    def test_probability_and_sharing_are_overridden(self):
        perturbation, needs = ready(Kornia(K.RandomSharpness(0.5, p=0.0, same_on_batch=True)), 2, 3)
        x = image(1, 3, 9, 14).expand(2, -1, -1, -1)
        raw = random_raw(perturbation, needs, x)
        view = perturbation(x, raw)
        assert (distortion(x, view) > 1e-3).all()
        assert (view[0] - view[1]).abs().max() > 1e-3

    def test_a_graph_is_not_kept(self):
        viewmaker, x = make(SHARPNESS), image(2, 3, 9, 14)
        viewmaker(x)
        assert viewmaker.perturbation._op[0]._params == {}

    def test_sizes_that_vary(self):
        viewmaker = make(
            [{"name": "kornia", "op": "RandomPerspective"}, {"name": "kornia", "op": "RandomAffine", "degrees": 9.0}]
        )
        for size in ((9, 14), (20, 11), (9, 14)):
            x = image(2, 3, *size)
            assert (distortion(x, viewmaker(x)) <= 0.05 + 1e-6).all()

    def test_views_move_masks(self):
        assert build({"name": "kornia", "op": "RandomRotation", "degrees": 20.0}).geometric
        assert build(["colour", "warp"]).geometric
        assert build("affine").geometric
        assert build("crop").geometric
        assert build(["colour", {"one_of": ["mask", "mix"]}]).geometric
        for spec in ("colour", SHARPNESS, "mask", "blur", ["spectral", "colour"]):
            assert not build(spec).geometric


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("spec", "dims", "channels"),
        [
            *WHERE,
            pytest.param({"name": "spectral", "norm": None, "band": (0.25, 0.75)}, 1, 1, id="band"),
            pytest.param({"name": "warp", "knots": 3, "reach": 0.1}, 2, 3, id="warp options"),
            pytest.param(["gain", ["filter", {"name": "blur", "sigma": 1.5}]], 1, 2, id="nested"),
            pytest.param(
                {"name": "kornia", "op": "RandomGaussianBlur", "kernel_size": (3, 3), "sigma": (0.5, 2.0)},
                2,
                3,
                id="sigma",
            ),
            pytest.param(
                {"name": "kornia", "op": "RandomAffine", "degrees": 9.0, "translate": (0.1, 0.2)}, 2, 3, id="translate"
            ),
            pytest.param({"name": "kornia", "op": "RandomBrightness", "brightness": (0.5, 1.5)}, 2, 3, id="brightness"),
        ],
    )
    def test_round_trip(self, tmp_path, spec, dims, channels):
        viewmaker, x = make(spec, dims, channels), image(2, channels, *SIZES[dims])
        path = tmp_path / "viewmaker.safetensors"
        save(viewmaker, path)
        loaded, noise = load(path), viewmaker.draw_noise(x, seeded())
        assert torch.equal(loaded(x, noise), viewmaker(x, noise))
        assert repr(loaded) == repr(viewmaker)
        assert loaded.config == viewmaker.config
        save(loaded, path)
        assert load(path).config == loaded.config

    @pytest.mark.parametrize("spec", [Kornia(K.RandomSharpness(0.5)), ["additive", Kornia(K.RandomSharpness(0.5))]])
    def test_an_instance_of_kornias_cannot_be_saved(self, tmp_path, spec):
        with pytest.raises((TypeError, ValueError), match=r"`op`.*name"):
            save(make(spec), tmp_path / "viewmaker.safetensors")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("wrap", [lambda step: step, lambda step: Sequential([Mask(), step])])
    def test_a_class_without_a_name_cannot_be_saved(self, tmp_path, wrap, monkeypatch):
        viewmaker = make(wrap(Scaled(2.0)))
        with pytest.raises(ValueError, match=r"Expected Scaled to have a name, as by PERTURBATIONS\['name'\] = Scaled"):
            save(viewmaker, tmp_path / "viewmaker.safetensors")
        monkeypatch.setitem(PERTURBATIONS, "scaled", Scaled)
        save(viewmaker, tmp_path / "viewmaker.safetensors")
        assert load(tmp_path / "viewmaker.safetensors").config == viewmaker.config

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("additive", "additive"),
            ({"name": "mask", "share": 0.5}, "mask"),
            ({"name": "mask", "grain": 8}, {"name": "mask", "grain": 8}),
            ({"name": "mix", "budget": None}, {"name": "mix", "budget": None}),
            ({"one_of": ["mix", ["crop", "colour"]]}, {"one_of": ["mix", ["crop", "colour"]]}),
            (
                [{"one_of": ["mix", "mask"], "shares": [1, 3], "budget": None}, {"name": "additive", "budget": 0.1}],
                [
                    {"one_of": ["mix", "mask"], "shares": [1.0, 3.0], "budget": None},
                    {"name": "additive", "budget": 0.1},
                ],
            ),
            (["additive", {"name": "blur", "sigma": 2.0}], ["additive", {"name": "blur", "sigma": 2.0}]),
            (("gain", ["filter"]), ["gain", "filter"]),
            (SHARPNESS, SHARPNESS),
        ],
        ids=str,
    )
    def test_describe(self, spec, expected):
        assert describe(build(spec)) == expected


class Scaled(Perturbation):
    def __init__(self, most: float = 1.0) -> None:
        super().__init__()
        self.most = most

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=1)

    def forward(self, x: torch.Tensor, raw: Raw) -> torch.Tensor:
        return x * (1 + self.most * raw.numbers.tanh())[(..., *(None,) * (x.ndim - 2))]
