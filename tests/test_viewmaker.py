"""The viewmaker and its generators: shapes, dtypes, replay, gradients, compilation, errors."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import viewaug
from viewaug import AdversarialAugmentation, Viewmaker, distortion
from viewaug.perturbations import PERTURBATIONS

GENERATORS = ("random", "fast", "reference")
LEARNED = ("fast", "reference")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(), dtype=torch.float32).to(dtype)


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize(
    ("generator", "dims", "size"),
    [
        ("fast", 1, (1,)),
        ("fast", 1, (101,)),
        ("fast", 2, (1, 1)),
        ("fast", 2, (33, 47)),
        ("fast", 2, (64, 16)),
        ("fast", 3, (5, 1, 9)),
        ("reference", 2, (5, 5)),
        ("random", 1, (1,)),
        ("random", 3, (5, 1, 9)),
        ("reference", 2, (33, 47)),
    ],
)
def test_any_shape(generator, dims, size, channels):
    viewmaker = Viewmaker(channels, dims=dims, generator=generator)
    x = image(2, channels, *size)
    view = viewmaker(x)
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    torch.testing.assert_close(distortion(x, view), torch.full((2,), 0.05))
    assert view.min() >= 0
    assert view.max() <= 1


@pytest.mark.parametrize("generator", GENERATORS)
def test_empty_batch(generator):
    assert Viewmaker(generator=generator)(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("perturbation", ["additive", "spectral"])
@pytest.mark.parametrize("constraint", ["fit", "rescale", "project"])
def test_budget_without_a_range(perturbation, constraint):
    viewmaker = Viewmaker(2, budget=0.3, perturbation=perturbation, value_range=None, constraint=constraint)
    x = 3 * image(4, 2, 9, 12) - 1
    realised = distortion(x, viewmaker(x))
    assert (realised <= 0.3 + 1e-6).all()
    if constraint != "project":
        torch.testing.assert_close(realised, torch.full((4,), 0.3))


def test_budget_argument_and_attribute():
    viewmaker, x = Viewmaker(budget=0.05), image(2, 3, 8, 8)
    torch.testing.assert_close(distortion(x, viewmaker(x, budget=torch.tensor([0.01, 0.1]))), torch.tensor([0.01, 0.1]))
    viewmaker.budget = 0.2
    torch.testing.assert_close(distortion(x, viewmaker(x)), torch.full((2,), 0.2))


@pytest.mark.parametrize("generator", GENERATORS)
def test_noise_is_all_the_randomness(generator):
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 16, 16)
    noise = viewmaker.draw_noise(x, seeded(1))
    view = viewmaker(x, noise)
    assert torch.equal(view, viewmaker(x, noise))
    assert torch.equal(view, viewmaker.eval()(x, viewmaker.draw_noise(x, seeded(1))))
    for i in range(len(noise)):  # every part of the noise matters
        others = (*noise[:i], 1 - noise[i], *noise[i + 1 :])
        assert not torch.equal(view, viewmaker(x, others))
    assert all(field.min() >= 0 and field.max() < 1 for field in noise)


def test_views_of_one_input_differ():
    viewmaker, x = Viewmaker(), image(1, 3, 16, 16)
    assert distortion(viewmaker(x), viewmaker(x)) > 0.005


@pytest.mark.parametrize("generator", LEARNED)
def test_every_parameter_learns(generator):
    torch.manual_seed(0)
    viewmaker = Viewmaker(generator=generator)
    view = viewmaker(image(4, 3, 16, 16))
    (view * torch.randn_like(view)).sum().backward()
    for name, parameter in viewmaker.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        # A bias before an instance norm is cancelled by it: its gradient is rounding, in the original as well.
        if not (generator == "reference" and name.endswith("conv.bias")):
            assert grad.abs().max() > 1e-7, name


def test_gradient_reaches_the_input():
    x = image(2, 3, 8, 8).requires_grad_()
    Viewmaker()(x).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_multiply_adds_of_the_fast_generator():
    count = FlopCounterMode(display=False)
    with count, torch.no_grad():
        Viewmaker()(image(1, 3, 32, 32))
    assert count.get_total_flops() / 2 <= 4e6


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(generator, dtype):
    viewmaker, x = Viewmaker(generator=generator).to(dtype), image(2, 3, 16, 16, dtype=dtype)
    view = viewmaker(x)
    assert view.dtype == dtype
    ulp = torch.finfo(dtype).eps
    assert (distortion(x, view) <= 0.05 * (1 + 1e-6) + ulp).all()
    if generator != "random":
        view.sum().backward()
    assert all(p.grad.isfinite().all() for p in viewmaker.parameters())


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(generator, dtype):
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 16, 16)
    with torch.autocast("cpu", dtype):
        view = viewmaker(x)
    assert view.dtype == torch.float32
    torch.testing.assert_close(distortion(x, view), torch.full((2,), 0.05), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("perturbation", ["additive", "spectral", "colour", "warp", "mix", "crop", "channels"])
@pytest.mark.parametrize("generator", GENERATORS)
def test_meta_device(generator, perturbation):
    """Shapes, gradients and counts of operations without any values; the device has no autocast."""
    viewmaker = Viewmaker(generator=generator, perturbation=perturbation).to("meta")
    x = torch.empty(4, 3, 16, 16, device="meta")
    with FlopCounterMode(display=False) as counter:
        view = AdversarialAugmentation(viewmaker)(x)
        view.sum().backward() if view.requires_grad else None
    assert view.shape == x.shape
    assert view.is_meta
    assert all(parameter.grad is not None for parameter in viewmaker.parameters())
    assert generator == "random" or counter.get_total_flops() > 0


@pytest.mark.parametrize("generator", GENERATORS)
def test_channels_last(generator):
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 16, 16)
    noise = viewmaker.draw_noise(x)
    expected = viewmaker(x, noise)
    view = viewmaker.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), noise)
    assert view.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(generator, copied):
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 8, 8)
    viewmaker(x.requires_grad_()).sum().backward()
    noise = viewmaker.draw_noise(x)
    assert torch.equal(viewmaker(x, noise), copied(viewmaker)(x, noise))


@pytest.mark.parametrize("generator", GENERATORS)
def test_compile(generator):
    torch._dynamo.reset()
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 16, 16)
    compiled = torch.compile(viewmaker, fullgraph=True, backend="aot_eager")
    noise = viewmaker.draw_noise(x)
    torch.testing.assert_close(compiled(x, noise), viewmaker(x, noise), rtol=0, atol=1e-5)
    view = compiled(x)  # draws inside the graph
    if generator != "random":
        view.sum().backward()
    assert all(p.grad is not None for p in viewmaker.parameters())
    assert compiled(image(2, 3, 12, 19)).shape == (2, 3, 12, 19)  # now with dynamic shapes


def test_budget_schedule_does_not_recompile():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    viewmaker, x = Viewmaker(width=8, depth=1), image(2, 3, 8, 8)
    compiled = torch.compile(viewmaker, fullgraph=True, backend=counter)
    for step in range(1, 6):
        realised = distortion(x, compiled(x, budget=torch.tensor(0.01 * step)))
        torch.testing.assert_close(realised, torch.full((2,), 0.01 * step), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize("generator", GENERATORS)
def test_export(generator):
    viewmaker, x = Viewmaker(generator=generator), image(2, 3, 16, 16)
    noise = viewmaker.draw_noise(x)
    exported = torch.export.export(viewmaker, (x, noise)).module()
    torch.testing.assert_close(exported(x, noise), viewmaker(x, noise), rtol=0, atol=1e-5)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_sample_stays_alone(generator, bad):
    viewmaker, x = Viewmaker(generator=generator), image(3, 3, 16, 16)
    noise = viewmaker.draw_noise(x)
    expected = viewmaker(x, noise)
    x[1, 0, 4, 4] = bad
    view = viewmaker(x, noise)
    assert torch.equal(view[::2], expected[::2])


def test_repr_says_what_it_is():
    text = repr(Viewmaker(budget=0.1))
    assert "budget=0.1" in text
    assert "value_range=(0.0, 1.0)" in text
    assert "patch=4" in text
    assert "blocks=3" in repr(Viewmaker(generator="reference"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"channels": 0}, ValueError, "`channels`"),
        ({"channels": 3.0}, TypeError, "`channels`"),
        ({"budget": -0.1}, ValueError, r"`budget` to be positive and finite, but got -0\.1"),
        ({"budget": 0}, ValueError, "`budget`"),
        ({"budget": float("nan")}, ValueError, "`budget`"),
        ({"budget": "0.1"}, TypeError, "`budget`"),
        ({"dims": 4}, ValueError, "`dims`"),
        ({"generator": "unet"}, ValueError, "`generator` to be one of 'random', 'fast', 'reference', but got 'unet'"),
        ({"generator": "reference", "dims": 1}, ValueError, "`dims`"),
        ({"perturbation": "magic"}, ValueError, "`perturbation`"),
        ({"constraint": "clip"}, ValueError, "`constraint`"),
        ({"constraint": "rescale_coefficients"}, ValueError, "`constraint`"),  # the original's alone
        ({"value_range": (1.0, 0.0)}, ValueError, "`value_range`"),
        ({"eps": -1.0}, ValueError, "`eps`"),
        ({"perturbation": {"name": "spectral", "norm": "forward"}}, ValueError, "`norm`"),
        ({"width": 0}, ValueError, "`width`"),
        ({"colour": 3}, TypeError, "colour"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Viewmaker(**arguments)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 8, 8), ValueError, r"`x` to have the shape \(B, 3, H, W\), but got \(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8), ValueError, "`x`"),
        (torch.zeros(2, 3, 8, 0), ValueError, "`x`"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "`x` to be floating point"),
        ([[0.0]], TypeError, "`x` to be a tensor"),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error, match=message):
        Viewmaker()(x)


def test_input_too_small_for_the_reference_generator():
    with pytest.raises(ValueError, match="at least 5"):
        Viewmaker(generator="reference")(torch.zeros(1, 3, 4, 8))


def test_bad_noise():
    viewmaker, x = Viewmaker(), image(2, 3, 8, 8)
    noise = viewmaker.draw_noise(x)
    for wrong in (noise[:-1], tuple(field[:1] for field in noise), viewmaker.draw_noise(image(2, 3, 16, 16))):
        with pytest.raises(ValueError, match="`noise`"):
            viewmaker(x, wrong)
    with pytest.raises(TypeError, match="`noise`"):
        viewmaker(x, 3)


@pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan")])
def test_bad_budget_assigned_or_passed(budget):
    viewmaker = Viewmaker()
    with pytest.raises(ValueError, match="`budget`"):
        viewmaker.budget = budget
    with pytest.raises(ValueError, match="`budget`"):
        viewmaker(image(1, 3, 8, 8), budget=budget)


def test_numbers_of_numpy(tmp_path):
    """They are numbers like others, and a file holds them."""
    warp = {"name": "warp", "reach": np.float32(0.1), "knots": np.int64(3)}
    viewmaker = Viewmaker(np.int64(3), budget=np.float32(0.5), perturbation=warp, width=np.int32(8), eps=np.float64(0))
    viewmaker.budget = np.float16(0.25)
    viewaug.save(viewmaker, tmp_path / "viewmaker.safetensors")
    assert viewaug.load(tmp_path / "viewmaker.safetensors").budget == 0.25
    with pytest.raises(TypeError, match="`budget`"):
        Viewmaker(budget=np.bool_(True))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("dims", [1, 2])
def test_full_backward_hooks_and_flat_weights(dims):
    """Nothing changes what a submodule returned, and weights lie in memory as torch's own do."""
    viewmaker = Viewmaker(2, dims=dims)
    seen = []
    for module in viewmaker.modules():
        module.register_full_backward_hook(lambda module, *args: seen.append(type(module).__name__))
    viewmaker(torch.rand(2, 2, *(8,) * dims, requires_grad=True)).square().sum().backward()
    assert "FastGenerator" in seen
    flat = torch.nn.utils.parameters_to_vector(viewmaker.parameters())
    torch.nn.utils.vector_to_parameters(flat, viewmaker.parameters())
    optimizer = torch.optim.LBFGS(viewmaker.parameters(), max_iter=2)
    x = torch.rand(2, 2, *(8,) * dims)
    noise = viewmaker.draw_noise(x)

    def closure():
        optimizer.zero_grad()
        loss = viewmaker(x, noise).square().mean()
        loss.backward()
        return loss

    assert torch.isfinite(optimizer.step(closure))


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e-8])
@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "kornia"])
def test_a_near_silent_sample_leaves_gradients_finite(name, size, value_range):
    if name == "colour" and value_range is None:
        return
    dims = 1 if name in ("gain", "filter") else 2
    viewmaker = Viewmaker(3, dims=dims, perturbation=name, value_range=value_range, width=8, depth=1)
    x = torch.rand(4, 3, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    x[1] *= size
    view = viewmaker(x)
    view.square().sum().backward()
    assert view.isfinite().all()
    assert all(p.grad.isfinite().all() for p in viewmaker.parameters() if p.grad is not None)
