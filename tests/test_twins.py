"""Random twins: views that begin as random ones, stay random enough, bear no grid, and do not depend on units."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from viewaug import (
    AdversarialAugmentation,
    BudgetController,
    JointOptimizer,
    Viewmaker,
    distortion,
    load,
    save,
)
from viewaug.generators import FastGenerator, RandomGenerator
from viewaug.perturbations import PERTURBATIONS, Kornia, Needs, Perturbation, build

STRIPES = {"name": "mask", "grain": [1.0, 4]}
CHOICE = {"one_of": ["mask", "additive"]}
SHARPNESS = {"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5}
STRONG = ["mask", "mix", "crop", "channels"]
IMAGES = [
    *("additive", "spectral", "warp", "affine", "blur", *STRONG, STRIPES, CHOICE, "colour", SHARPNESS),
    ["spectral", "mask"],
]
SERIES = ["additive", "spectral", "warp", "blur", *STRONG, "gain", "filter", ["gain", "filter"]]
CASES = [(spec, 2) for spec in IMAGES] + [(spec, 1) for spec in SERIES]
LEARNED = ("fast", "reference")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(dims: int, n: int = 64) -> torch.Tensor:
    """Smooth signals in [0, 1] with some detail, 3 x 32 x 32 or 3 x 256."""
    size = (32, 32) if dims == 2 else (256,)
    mode = "bilinear" if dims == 2 else "linear"
    coarse = torch.rand(n, 3, *(side // 8 for side in size), generator=seeded(1))
    fine = torch.rand(n, 3, *size, generator=seeded(2))
    return 0.8 * F.interpolate(coarse, size, mode=mode) + 0.2 * fine


def make(spec, dims: int = 2, generator: str = "random", seed: int = 0, **options) -> Viewmaker:
    torch.manual_seed(seed)
    return Viewmaker(3, dims=dims, perturbation=spec, generator=generator, **options)


def changes(viewmaker: Viewmaker, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return tuple(viewmaker(x, viewmaker.draw_noise(x, seeded(seed))) - x for seed in (3, 4))


def size(delta: torch.Tensor) -> float:
    return delta.abs().mean().item()


def spectrum(delta: torch.Tensor) -> torch.Tensor:
    """Mean power along the last axis, by frequency, of mean 1."""
    power = torch.fft.rfft(delta - delta.mean(-1, keepdim=True)).abs().square().flatten(0, -2).mean(0)[1:]
    return power / power.mean()


class TestRandom:
    @pytest.mark.parametrize(("spec", "dims"), CASES, ids=str)
    def test_every_family_has_a_twin(self, spec, dims):
        viewmaker, x = make(spec, dims), signal(dims)
        assert not list(viewmaker.parameters())
        first, second = changes(viewmaker, x)
        assert 0.01 < size(first) <= 0.05 * (1 + 1e-5)
        assert size(first - second) > 0.25 * size(first)

    def test_all_of_them(self):
        named = {name for spec in (*IMAGES, *SERIES) for name in ([spec] if isinstance(spec, str) else [])}
        assert named | {"kornia"} == set(PERTURBATIONS)

    def test_a_perturbation_of_ones_own_has_one_by_default(self):
        class Invert(Perturbation):
            def needs(self, channels, dims):
                return Needs(numbers=1)

            def forward(self, x, raw):
                return x + raw.numbers.tanh().abs()[..., None, None] * (1 - 2 * x)

        viewmaker, x = make(Invert(), budget=1.0), torch.zeros(4000, 3, 1, 1)
        share = viewmaker(x).mean((1, 2, 3))  # uniform
        torch.testing.assert_close(
            share.quantile(torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0
        )

    def test_kornias_twin_is_the_augmentation(self):
        perturbation = build(Kornia("RandomRotation", degrees=20.0))
        needs = perturbation.needs(3, 2)
        white = RandomGenerator(3, needs.maps, 2, needs.numbers)
        u = torch.rand(5000, needs.numbers, generator=seeded())
        raw = perturbation.twin(white(torch.zeros(5000, 3, 1, 1), (u,)))
        angle = 20 * raw.numbers[:, 1].tanh()
        assert angle.abs().max() <= 20
        torch.testing.assert_close(angle.std(), torch.tensor(40 / math.sqrt(12)), rtol=0.03, atol=0)

    def test_replay_and_file(self, tmp_path):
        viewmaker, x = make(["warp", "additive"]), signal(2, 4)
        noise = viewmaker.draw_noise(x, seeded())
        save(viewmaker, tmp_path / "random.safetensors")
        assert torch.equal(load(tmp_path / "random.safetensors")(x, noise), viewmaker(x, noise))

    def test_in_the_drop_in_with_a_controller(self):
        viewmaker, x = make("additive"), signal(2, 8)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
        augmentation = AdversarialAugmentation(viewmaker, mean=0.5, std=0.2)
        optimizer = JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.1), viewmaker.parameters())
        controller = BudgetController(viewmaker, unrelated=1.0)
        before = encoder[1].weight.clone()
        loss = (encoder(augmentation(x)) - encoder(augmentation(x))).square().mean()
        loss.backward()
        optimizer.step()
        assert not torch.equal(before, encoder[1].weight)
        assert controller.step(0.0) > 0.05
        for keep_graph in (False, True):
            view = augmentation.freeze(keep_graph=keep_graph)(x)
            assert view.shape == x.shape


class TestBeginning:
    @pytest.mark.parametrize(("spec", "dims"), CASES, ids=str)
    def test_fast_begins_as_random(self, spec, dims):
        x = signal(dims, 512)
        (first, second), (random, other) = (changes(make(spec, dims, name), x) for name in ("fast", "random"))
        assert size(first) == pytest.approx(size(random), rel=0.1)
        assert size(first - second) / size(first) == pytest.approx(size(random - other) / size(random), rel=0.1)
        assert (spectrum(first) - spectrum(random)).abs().mean() < 0.15 * spectrum(random).abs().mean()

    @pytest.mark.parametrize(("spec", "dims"), CASES, ids=str)
    def test_every_parameter_has_a_gradient(self, spec, dims):
        viewmaker, x = make(spec, dims, "fast"), signal(dims, 8)
        view = viewmaker(x, viewmaker.draw_noise(x, seeded()))
        (view * torch.randn(view.shape, generator=seeded(1))).sum().backward()
        for name, parameter in viewmaker.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


class TestDepartures:
    @pytest.mark.parametrize("departure", [0.5, 3.0])
    @pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
    def test_diversity_stays_above_its_share(self, departure, scale):
        """Whatever the weights: of raw outputs, and of additive views."""
        x = signal(2, 16)
        twin = make("additive")
        wild = make("additive", generator="fast", departure=departure)
        with torch.no_grad():
            for parameter in wild.parameters():
                parameter.mul_(scale if parameter.ndim > 1 else 1)
        share = 1 / (1 + departure)
        raws = [wild.generator(x, wild.draw_noise(x, seeded(seed))).maps for seed in (3, 4)]
        whites = [twin.generator(x, twin.draw_noise(x, seeded(seed))).maps for seed in (3, 4)]
        expected = size(whites[0] - whites[1]) / size(whites[0])
        assert size(raws[0] - raws[1]) / size(raws[0]) > 0.97 * share * expected
        for raw, seed in zip(raws, (3, 4), strict=True):
            white = torch.logit(wild.draw_noise(x, seeded(seed))[0], 1e-6) / 2
            assert ((raw - white).abs().mean((1, 2, 3)) <= departure * math.log(2) * (1 + 1e-4)).all()
        first, second = changes(wild, x)
        assert size(first - second) / size(first) > 0.9 * share * expected

    def test_numbers_are_bounded_each(self):
        wild = make("colour", generator="fast", departure=2.0)
        with torch.no_grad():
            wild.generator.numbers_head.weight.mul_(1e6)
        x = signal(2, 16)
        noise = wild.draw_noise(x, seeded())
        white = torch.logit(noise[0], 1e-6) / 2
        departure = wild.generator(x, noise).numbers - white
        assert 2 * math.log(2) * 0.9 < departure.abs().max() <= 2 * math.log(2) + 1e-4

    @pytest.mark.parametrize(("scale", "most"), [(1.0, 1.2), (20.0, 2.5), (400.0, 2.5)])
    def test_no_trace_of_the_grid(self, scale, most):
        """The spectrum of additive views has no line at multiples of the patches' frequency.

        With weights many times as large there is a hill, less than half of what a mean that all cells share would make.
        """
        x, peaks = signal(2, 256), []
        for seed in range(4):
            viewmaker = make("additive", generator="fast", departure=100.0, seed=seed)
            with torch.no_grad():
                for parameter in viewmaker.parameters():
                    parameter.mul_(scale)
                viewmaker.generator.head.weight.mul_(100)
                viewmaker.generator.patterns.weight.mul_(100)
            for delta in (changes(viewmaker, x)[0], changes(viewmaker, x)[0].mT):
                power = spectrum(delta)
                for place in (8 - 1, 16 - 1):  # 1/4 and 1/2 of the sampling rate; the constant is left out
                    around = torch.cat([power[max(0, place - 3) : place], power[place + 1 : place + 4]])
                    peaks.append((power[place] / around.mean()).item())
        assert sum(peaks) / len(peaks) < most

    @pytest.mark.parametrize("patch", [1, 2, 3, 4])
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_maps_are_interpolated_and_have_patterns(self, dims, patch):
        """Patterns are a transposed convolution, of windowed kernels of two cells' width, without the cells' mean."""
        made = FastGenerator(2, 3, dims, width=5, patch=patch).double()
        size = (7, 5, 6)[:dims]
        x, grid = torch.zeros(2, 2, *size), [-(-side // patch) for side in size]
        h = torch.randn(2, 5, *grid, dtype=torch.float64, generator=seeded())
        kernel = torch.zeros(5, 3, *(2 * patch,) * dims, dtype=torch.float64)
        away = (torch.arange(2 * patch) + 0.5 + patch / 2 - patch // 2) / patch  # from the start, up to the end at 2
        line = torch.sin(math.pi / 2 * away.double()) ** 2
        weight = made.patterns.weight.detach().unflatten(0, (3, *(patch,) * dims))
        for place in itertools.product(range(2 * patch), repeat=dims):
            phase, tap = [k % patch for k in place], [1 - k // patch for k in place]
            kernel[(..., *place)] = weight[(slice(None), *phase, slice(None), *tap)].T * math.prod(
                line[k] for k in place
            )
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        mean = h.mean(tuple(range(2, h.ndim)), keepdim=True)
        patterns = transposed(h - mean, kernel, stride=patch)
        start = patch // 2
        patterns = patterns[(..., *(slice(start, start + side) for side in size))]
        mode = ("linear", "bilinear", "trilinear")[dims - 1]
        around = F.pad(h - mean, (1, 1) * dims)  # beyond the border there is the mean
        smooth = F.interpolate(made.head(around), scale_factor=float(patch), mode=mode)
        smooth = smooth[(..., *(slice(patch, patch + side) for side in size))]
        bias = made.head.bias.view(-1, *(1,) * dims)
        torch.testing.assert_close(made._rise(h, x), made.head(mean) + smooth - bias + patterns, rtol=0, atol=1e-6)

    def test_it_learns_against_an_encoder(self):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        viewmaker, x = make("additive", generator="fast"), signal(2, 32)
        adam = torch.optim.Adam(viewmaker.parameters(), lr=3e-3)

        def apart() -> torch.Tensor:
            return (encoder(viewmaker(x)) - encoder(viewmaker(x))).square().mean()

        first = apart().item()
        for _ in range(40):
            adam.zero_grad()
            (-apart()).backward()
            adam.step()
        assert apart().item() > 1.5 * first
        a, b = changes(viewmaker, x)
        assert size(a - b) / size(a) > 1.43 / 4


class TestUnits:
    @pytest.mark.parametrize("generator", ["random", *LEARNED])
    @pytest.mark.parametrize("spec", IMAGES, ids=str)
    def test_of_a_value_range(self, spec, generator):
        x = signal(2, 4)
        plain, scaled = (
            make(spec, generator=generator),
            make(spec, generator=generator, budget=12.75, value_range=(0, 255)),
        )
        noise = plain.draw_noise(x, seeded())
        with torch.no_grad():
            torch.testing.assert_close(scaled(255 * x, noise) / 255, plain(x, noise), rtol=0, atol=2e-5)

    @pytest.mark.parametrize("generator", ["random", *LEARNED])
    @pytest.mark.parametrize("factor", [1e-6, 1e4, 2.0**15])
    @pytest.mark.parametrize("spec", [spec for spec in IMAGES if spec not in ("colour", SHARPNESS)], ids=str)
    def test_without_a_range(self, spec, generator, factor):
        x = signal(2, 4) - 0.5
        plain = make(spec, generator=generator, value_range=None)
        scaled = make(spec, generator=generator, value_range=None, budget=0.05 * factor)
        noise = plain.draw_noise(x, seeded())
        with torch.no_grad():
            torch.testing.assert_close(scaled(factor * x, noise) / factor, plain(x, noise), rtol=0, atol=2e-5)

    @pytest.mark.parametrize("generator", ["random", *LEARNED])
    def test_of_an_offset(self, generator):
        """Decibels: what is added does not depend on where their zero is."""
        x = signal(2, 4)
        viewmaker = make("additive", generator=generator, value_range=None)
        noise = viewmaker.draw_noise(x, seeded())
        with torch.no_grad():
            torch.testing.assert_close(viewmaker(x - 40, noise) + 40, viewmaker(x, noise), rtol=0, atol=1e-4)

    def test_two_draws_differ_in_any_units(self):
        x = signal(2)
        for factor, value_range in ((255, (0, 255)), (1e4, None), (1e-3, None)):
            viewmaker = make("additive", generator="fast", value_range=value_range, budget=0.05 * factor)
            first, second = changes(viewmaker, factor * x)
            assert F.cosine_similarity(first.flatten(1), second.flatten(1)).abs().mean() < 0.1

    @pytest.mark.parametrize("value_range", [None, (-4.0, 9.0)])
    def test_budget_in_standard_deviations(self, value_range):
        viewmaker = make("additive", generator="fast", budget=0.2, units="std", value_range=value_range)
        x = torch.tensor([0.1, 1.0, 2.0]).view(3, 1, 1, 1) * (signal(2, 3) - 0.5) + 1
        std = x.flatten(1).std(1, correction=0)
        torch.testing.assert_close(distortion(x, viewmaker(x)), 0.2 * std, rtol=1e-4, atol=0)
        budget = torch.tensor([0.1, 0.2, 0.3])
        torch.testing.assert_close(distortion(x, viewmaker(x, budget=budget)), budget * std, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("value", [0.0, 1.0, -1e-20, 1e30])
    @pytest.mark.parametrize("units", ["input", "std"])
    def test_constant_and_extreme_samples(self, value, units):
        viewmaker, x = (
            make("additive", generator="fast", value_range=None, units=units),
            torch.full((2, 3, 8, 8), value),
        )
        x[1] = torch.randn(3, 8, 8, generator=seeded())
        view = viewmaker(x)
        assert view.isfinite().all()
        view.square().mean((1, 2, 3))[1].backward()
        assert all(parameter.grad.isfinite().all() for parameter in viewmaker.parameters())
        if units == "input" and abs(value) <= 1:
            torch.testing.assert_close(distortion(x, view), torch.full((2,), 0.05), rtol=1e-5, atol=1e-7)

    def test_gradient_of_the_input(self):
        viewmaker = Viewmaker(1, value_range=None, units="std", width=2, depth=1).double()
        x = torch.randn(2, 1, 5, 6, dtype=torch.float64, generator=seeded()).requires_grad_()
        noise = viewmaker.draw_noise(x, seeded())
        assert torch.autograd.gradcheck(lambda x: viewmaker(x, noise), x)

    def test_controller_starts_anywhere(self):
        controller = BudgetController(make("additive", value_range=(0, 255), budget=12.75), unrelated=1.0)
        assert controller.step(0.0) > 12.75


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"units": "dB"}, ValueError, "`units` to be one of 'input', 'std', 'raw'"),
        ({"departure": 0.0}, ValueError, "`departure` to be positive"),
        ({"departure": True}, TypeError, "`departure` to be a float"),
        ({"noise": 0}, ValueError, "`noise`"),
        ({"generator": "random", "width": 3}, TypeError, "width"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Viewmaker(**options)
