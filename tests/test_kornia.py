"""A viewmaker as one of kornia's augmentations, in kornia's own containers."""

import copy
import io
import itertools
import pickle

import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F
from kornia.constants import DataKey
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from viewaug.adapters.kornia import RandomViewmaker

from viewaug import JointOptimizer, Viewmaker, distortion

DRAWS_IN_COMPILED = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12), reason="this torch loses what kornia draws there"
)
SMALL = {"fast": {"width": 8, "depth": 2}, "reference": {"generator": "reference", "blocks": 2}}
MOVING = {
    "warp": "warp",
    "affine": "affine",
    "a step of two": ["colour", "warp"],
    "kornia": {"name": "kornia", "op": "RandomAffine", "degrees": 10},
}
COPIES = {
    "the same": lambda module: module,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values far enough from both ends of the range that no view saturates."""
    return (0.25 + 0.5 * torch.rand(shape or (4, 3, 16, 16))).to(dtype)


def make(channels: int = 3, generator: str = "fast", perturbation="additive", **options) -> RandomViewmaker:
    return RandomViewmaker(Viewmaker(channels, perturbation=perturbation, **SMALL[generator]), **options)


def budgets(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def simclr(op: nn.Module, **options) -> K.AugmentationSequential:
    return K.AugmentationSequential(
        K.RandomResizedCrop((13, 18), scale=(0.3, 1.0)),
        K.RandomHorizontalFlip(),
        op,
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        **options,
    )


def gradients(pipeline: nn.Module, x: torch.Tensor, params) -> list[torch.Tensor]:
    """Of one and the same loss, for all parameters of the pipeline and, at last, for the input."""
    x = x.clone().requires_grad_()
    out = pipeline(x, params=params)
    weight = torch.linspace(-1, 1, out[0].numel(), dtype=out.dtype).view(out[0].shape)
    return list(torch.autograd.grad((out * weight).sum(), [*pipeline.parameters(), x]))


def fails_with(error, message, function, *args, **kwargs) -> None:
    with pytest.raises(error, match=message):
        function(*args, **kwargs)


class TestContract:
    def test_kind(self):
        assert isinstance(make(), K.IntensityAugmentationBase2D)

    @pytest.mark.parametrize("keepdim", [False, True])
    @pytest.mark.parametrize(
        ("channels", "shape"), [(1, (9, 14)), (1, (1, 9, 14)), (3, (3, 9, 14)), (3, (1, 3, 9, 14)), (2, (5, 2, 9, 14))]
    )
    def test_ranks(self, channels, shape, keepdim):
        x, op = images(*shape), make(channels, keepdim=keepdim)
        view = op(x)
        batched = x.reshape(-1, channels, 9, 14)
        assert view.shape == (shape if keepdim else batched.shape)
        realised = distortion(batched, view.reshape(batched.shape))
        torch.testing.assert_close(realised, torch.full((len(batched),), 0.05))
        assert torch.equal(view, op(x, params=op._params))

    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("containers", [0, 1])
    def test_dtypes(self, generator, dtype, containers):
        op = make(generator=generator)
        pipeline = K.AugmentationSequential(K.RandomHorizontalFlip(), op) if containers else op
        x = images(2, 3, 8, 8, dtype=dtype)
        view = pipeline.to(dtype)(x)
        assert view.dtype == dtype
        assert torch.equal(view, pipeline(x, params=pipeline._params))
        assert {value.dtype for name, value in op._params.items() if name.startswith("noise_")} == {dtype}
        (view * torch.randn_like(view)).sum().backward()
        assert all(p.grad.isfinite().all() for p in op.parameters())

    @pytest.mark.parametrize("convert", ["half", "bfloat16", "double"])
    def test_conversions(self, convert):
        pipeline = getattr(K.AugmentationSequential(make(), K.RandomHorizontalFlip()), convert)()
        x = getattr(images(), convert)()
        assert pipeline(x).dtype == x.dtype

    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("p", [0.5, 1.0])
    def test_autocast(self, generator, p):
        op, x = make(generator=generator, p=p), images()
        with torch.autocast("cpu", torch.bfloat16):
            view = op(x)
        assert view.dtype == torch.float32
        realised = distortion(x, view)
        torch.testing.assert_close(realised, 0.05 * op._params["batch_prob"], rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("p", [0.5, 1.0])
    def test_empty_batch(self, generator, p):
        empty = torch.zeros(0, 3, 8, 8)
        assert make(generator=generator, p=p)(empty).shape == empty.shape
        assert K.AugmentationSequential(make(generator=generator, p=p))(empty).shape == empty.shape

    def test_an_empty_batch_is_not_the_first(self):
        op = make()
        op(torch.zeros(0, 3, 8, 8))
        fails_with(ValueError, "value range", op, 2 * images())

    def test_probability_of_a_sample(self):
        x = images(64, 3, 8, 8)
        assert torch.equal(make(p=0.0)(x), x)
        assert (distortion(x, make(p=1.0)(x)) > 0.04).all()
        perturbed = distortion(x, make(p=0.25)(x)) > 0.04
        assert 4 <= perturbed.sum() <= 28

    def test_skipped_rows_pass_with_their_gradient(self):
        op, x = make(p=0.5), images(8, 3, 8, 8).requires_grad_()
        view = op(x)
        upstream = torch.randn_like(x)
        (grad,) = torch.autograd.grad(view, x, upstream)
        on = op._params["batch_prob"] > 0.5
        assert 0 < on.sum() < 8
        assert torch.equal(view[~on], x[~on])
        assert torch.equal(grad[~on], upstream[~on])
        noise = tuple(op._params[f"noise_{i}"] for i in range(3))
        plain = op.viewmaker(x, noise)
        (true,) = torch.autograd.grad(plain, x, upstream)
        assert torch.equal(view[on], plain[on])
        torch.testing.assert_close(grad[on], true[on], rtol=1e-5, atol=1e-6)
        assert (grad[on] - upstream[on]).abs().amax((1, 2, 3)).min() > 1e-4

    def test_skipped_rows_do_not_train_the_viewmaker(self):
        op, x = make(p=0.5), images(8, 3, 8, 8)
        view = op(x)
        (view * (op._params["batch_prob"] < 0.5)[:, None, None, None]).sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in op.parameters())

    def test_probability_of_a_batch(self):
        op, x = make(p_batch=0.5), images(3, 3, 8, 8)
        perturbed = torch.stack([distortion(x, op(x)) > 0.04 for _ in range(20)])
        assert torch.equal(perturbed.all(1), perturbed.any(1))
        assert 3 <= perturbed.all(1).sum() <= 17

    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("level", ["op", "container"])
    def test_same_on_batch(self, generator, level):
        x = images(1, 3, 9, 14).repeat(3, 1, 1, 1)
        op = make(generator=generator, same_on_batch=level == "op")
        pipeline = op if level == "op" else K.AugmentationSequential(op, same_on_batch=True)
        view = pipeline(x)
        assert torch.equal(view, view[:1].expand_as(view))
        assert torch.equal(view, pipeline(x, params=pipeline._params))
        op.same_on_batch = False
        assert (distortion(*pipeline(x)[:2][:, None]) > 1e-4).all()

    def test_budget_of_a_call(self):
        op, x = make(), images()
        # A number, or one per sample.
        for budget, expected in ((0.02, budgets(*[0.02] * 4)), (budgets(0.01, 0.02, 0.03, 0.1),) * 2):
            torch.testing.assert_close(distortion(x, op(x, budget=budget)), expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(distortion(x, op(x)), budgets(*[0.05] * 4))  # not kept
        op.viewmaker.budget = 0.1
        torch.testing.assert_close(distortion(x, op(x)), budgets(*[0.1] * 4))

    def test_budget_of_a_call_of_a_container(self):
        x = images()
        pipeline = K.AugmentationSequential(make(), extra_args={DataKey.INPUT: {"budget": 0.01}})
        torch.testing.assert_close(distortion(x, pipeline(x)), budgets(*[0.01] * 4), rtol=1e-4, atol=1e-7)

    def test_budget_of_a_call_with_skipped_rows(self):
        op, x, budget = make(p=0.5), images(), budgets(0.01, 0.02, 0.03, 0.1)
        torch.manual_seed(0)
        realised = distortion(x, op(x, budget=budget))
        assert 0 < op._params["batch_prob"].sum() < 4
        torch.testing.assert_close(realised, budget * op._params["batch_prob"], rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), budgets(0.1, 0.1)])
    def test_bad_budget_of_a_call(self, budget):
        fails_with(ValueError, "budget", make(), images(), budget=budget)

    @pytest.mark.parametrize("p", [0.5, 1.0])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_what_may_change(self, p, reverse):
        op, x = make(p=p, reverse=reverse), images()
        where = torch.ones(1, 1, 16, 16)
        where[..., :4] = 0
        ends = torch.tensor([8, 16, 12, 5])
        view = op(x, where=where, lengths=ends, budget=0.02)
        on = op._params["batch_prob"]
        for i, end in enumerate(ends):
            assert torch.equal(view[i, ..., :4], x[i, ..., :4])
            assert torch.equal(view[i, ..., end:], x[i, ..., end:])
        expected = 0.02 * on
        torch.testing.assert_close(distortion(x, view, where=where, lengths=ends), expected, rtol=1e-3, atol=1e-7)
        again = op(x, params=op._params, where=where, lengths=ends, budget=0.02)
        assert torch.equal(again, view)
        assert (op(x)[..., :4] != x[..., :4]).any()  # not kept

    def test_what_may_change_in_a_container(self):
        x, where = images(), torch.ones(1, 1, 16, 16)
        where[..., :4] = 0
        pipeline = K.AugmentationSequential(make(), extra_args={DataKey.INPUT: {"where": where}})
        assert torch.equal(pipeline(x)[..., :4], x[..., :4])
        fails_with(ValueError, "`where`", make(), x, where=where[..., 1:])

    def test_perturbs_in_eval(self):
        x = images()
        for pipeline in (make(), K.AugmentationSequential(make())):
            torch.testing.assert_close(distortion(x, pipeline.eval()(x)), budgets(*[0.05] * 4))

    def test_seed(self):
        pipeline, x = simclr(make()), images()
        views = []
        for number in (1, 1, 2):
            torch.manual_seed(number)
            views.append(pipeline(x))
        assert torch.equal(views[0], views[1])
        assert not torch.equal(views[0], views[2])

    def test_repr(self):
        op = make(p=0.3, p_batch=0.7, reverse=False)
        op.viewmaker.budget = 0.125
        for part in ("RandomViewmaker(", "budget=0.125", "p=0.3", "p_batch=0.7", "reverse=False"):
            assert part in repr(op)
            assert part in repr(K.AugmentationSequential(op))

    @pytest.mark.parametrize(
        ("viewmaker", "options", "error", "message"),
        [
            (nn.Identity(), {}, TypeError, "`viewmaker` to be a viewaug.Viewmaker, but got Identity"),
            (Viewmaker(1, dims=1), {}, ValueError, "2 dims, but got 1"),
            (Viewmaker(1, dims=3), {}, ValueError, "2 dims, but got 3"),
            (Viewmaker(), {"p": 1.5}, ValueError, r"`p` to be a probability, but got 1\.5"),
            (Viewmaker(), {"p": -0.1}, ValueError, "`p`"),
            (Viewmaker(), {"p": float("nan")}, ValueError, "`p`"),
            (Viewmaker(), {"p_batch": 2.0}, ValueError, "`p_batch`"),
        ],
    )
    def test_bad_arguments(self, viewmaker, options, error, message):
        fails_with(error, message, RandomViewmaker, viewmaker, **options)

    @pytest.mark.parametrize("container", [lambda op: op, K.AugmentationSequential, K.ImageSequential])
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            ((images() - 0.5) / 0.2, ValueError, "value range.*normalised"),
            (torch.full((2, 3, 8, 8), float("nan")), ValueError, "finite"),
            (torch.full((2, 3, 8, 8), 1, dtype=torch.uint8), TypeError, "Got torch.uint8"),
            (images(2, 1, 8, 8), ValueError, r"\(B, 3, H, W\), but got \(2, 1, 8, 8\)"),
            (images(8, 8), ValueError, r"\(B, 3, H, W\)"),
        ],
    )
    def test_bad_input(self, container, x, error, message):
        fails_with(error, message, container(make()), x)

    def test_only_the_first_batch_is_looked_at(self):
        op, x = make(), images()
        fails_with(ValueError, "value range", op, x + 2)
        fails_with(ValueError, "value range", op, x + 2)  # a batch that was refused is not the first one
        op(x)
        assert op(x + 2).shape == x.shape

    def test_another_value_range(self):
        op = RandomViewmaker(Viewmaker(value_range=(-3.0, 3.0), budget=0.2, **SMALL["fast"]))
        x = 4 * (images() - 0.5)
        torch.testing.assert_close(distortion(x, op(x)), budgets(*[0.2] * 4))


class Grow(nn.Module):
    """Changes the size of an image, of which a kornia container cannot know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2)


class Twice(nn.Module):
    """Changes the size of a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])


PIPELINES = {
    "op": lambda op: op,
    "simclr": simclr,
    "first": lambda op: K.AugmentationSequential(op, K.RandomResizedCrop((9, 11)), K.RandomErasing()),
    "random_apply": lambda op: K.AugmentationSequential(op, K.RandomVerticalFlip(), K.RandomInvert(), random_apply=2),
    "image": lambda op: K.ImageSequential(K.RandomHorizontalFlip(), op, nn.Identity()),
    "nested": lambda op: K.AugmentationSequential(
        K.ImageSequential(K.RandomCrop((11, 17)), K.AugmentationSequential(op, K.RandomHorizontalFlip())),
        copy.deepcopy(op),
    ),
    "patches": lambda op: K.PatchSequential(op, K.RandomInvert(), grid_size=(2, 2), patchwise_apply=False),
    "each patch": lambda op: K.PatchSequential(
        op, K.RandomInvert(), K.RandomHorizontalFlip(), copy.deepcopy(op), grid_size=(2, 2)
    ),
    "random patches": lambda op: K.PatchSequential(op, K.RandomHorizontalFlip(), grid_size=(2, 2), random_apply=True),
    "video": lambda op: K.VideoSequential(K.RandomHorizontalFlip(), op, K.RandomCrop((9, 14)), same_on_frame=True),
    "frames": lambda op: K.VideoSequential(op, K.RandomVerticalFlip(), same_on_frame=False),
    "frames nested": lambda op: K.VideoSequential(K.ImageSequential(op), same_on_frame=False),
    "BCTHW": lambda op: K.VideoSequential(op, data_format="BCTHW"),
}
VIDEO = {"video": (2, 4, 3, 19, 26), "frames": (2, 4, 3, 19, 26), "frames nested": (2, 4, 3, 19, 26)}


class TestReplay:
    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("name", PIPELINES)
    def test_bit_equal(self, name, generator):
        pipeline = PIPELINES[name](make(generator=generator))
        x = images(*(2, 3, 4, 19, 26) if name == "BCTHW" else VIDEO.get(name, (3, 3, 19, 26)))
        kept = x.clone()
        views, params = [], []
        for _ in range(2):
            views.append(pipeline(x))
            params.append(pipeline._params)
        assert torch.equal(x, kept)
        assert not torch.equal(views[0], views[1])
        for copied in COPIES.values():
            again = copied((pipeline, params))
            for view, recorded in zip(views, again[1], strict=True):
                assert torch.equal(view, again[0](x, params=recorded))

    @pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("same_on_batch", [False, True])
    def test_with_probabilities(self, p, same_on_batch):
        pipeline, x = simclr(make(p=p), same_on_batch=same_on_batch), images(4, 3, 19, 26)
        view, params = pipeline(x), pipeline._params
        pipeline(x)
        assert torch.equal(view, pipeline(x, params=params))

    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("size", [(5, 5), (19, 26), (16, 7)])
    def test_all_noise_is_recorded(self, generator, size):
        op, x = make(generator=generator), images(2, 3, *size)
        view, params = op(x), op._params
        noise = {name: value for name, value in params.items() if name.startswith("noise_")}
        assert len(noise) == len(op.viewmaker.draw_noise(x))
        assert torch.equal(view, op.viewmaker(x, tuple(noise.values())))
        for name, field in noise.items():
            assert 0 <= field.min() < field.max() < 1
            assert not torch.equal(view, op(x, params={**params, name: 1 - field}))
        assert not any(torch.equal(field[0], field[1]) for field in noise.values())

    @pytest.mark.parametrize("generator", SMALL)
    def test_order_of_the_fields_does_not_matter(self, generator):
        op, x = make(generator=generator), images(2, 3, 9, 14)
        view = op(x)
        assert torch.equal(view, op(x, params=dict(sorted(op._params.items(), reverse=True))))

    def test_frames(self):
        x = images(2, 1, 3, 9, 14).repeat(1, 4, 1, 1, 1)
        same = K.VideoSequential(make(), same_on_frame=True)(x)
        assert torch.equal(same, same[:, :1].expand_as(same))
        assert not torch.equal(same[0, 0] - x[0, 0], same[1, 0] - x[1, 0])
        differing = K.VideoSequential(make(), same_on_frame=False)(x)
        assert not any(torch.equal(differing[:, 0], differing[:, i]) for i in range(1, 4))

    def test_patches(self):
        """Each patch is one image to the viewmaker, so that each of them gets the whole budget."""
        x = images(2, 3, 16, 16)
        for index in range(4):
            modules = [nn.Identity() for _ in range(4)]
            modules[index] = make()
            view = K.PatchSequential(*modules, grid_size=(2, 2))(x)
            realised = F.avg_pool2d((view - x).abs().mean(1), 8).flatten(1)
            expected = torch.zeros(2, 4)
            expected[:, index] = 0.05
            torch.testing.assert_close(realised, expected, rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize("batch", [1, 3, 8])
    @pytest.mark.parametrize("p", [0.5, 1.0])
    @pytest.mark.parametrize("container", [lambda op: op, K.AugmentationSequential])
    def test_another_batch_size(self, container, p, batch):
        pipeline = container(make(p=p))
        pipeline(images())
        fails_with(
            ValueError,
            f"`params` of {batch} samples, but got those of 4",
            pipeline,
            images(batch, 3, 16, 16),
            params=pipeline._params,
        )

    def test_another_image_size(self):
        op = make()
        op(images())
        fails_with(
            ValueError, r"`noise` to have the shapes .*\(4, 4, 8, 8\)", op, images(4, 3, 32, 32), params=op._params
        )

    def test_after_a_plain_module_that_resizes(self):
        fails_with(ValueError, "`noise` to have the shapes", K.AugmentationSequential(Grow(), make()), images())
        fails_with(ValueError, "`params`", K.AugmentationSequential(Twice(), make()), images())

    @pytest.mark.parametrize(
        "resize", [K.RandomCrop((9, 11)), K.Resize((9, 11)), K.PadTo((20, 22)), K.CenterCrop((9, 11))]
    )
    def test_after_an_augmentation_that_resizes(self, resize):
        pipeline, x = K.AugmentationSequential(resize, make()), images()
        view = pipeline(x)
        assert view.shape[2:] in {(9, 11), (20, 22)}
        assert torch.equal(view, pipeline(x, params=pipeline._params))

    def test_sees_every_row(self):
        """Of the batch, perturbed or not: kornia selects the rows afterwards."""
        op, seen = make(p=0.5), []
        op.viewmaker.register_forward_hook(lambda module, args, out: seen.append(len(out)))
        op(images(8, 3, 8, 8))
        assert seen == [8]


def annotations(batch: int = 2) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[1.0, 2.0, 6.0, 7.0], [3.0, 1.0, 9.0, 4.0]]).repeat(batch, 1, 1)
    (x1, y1, x2, y2), ones = boxes.unbind(-1), torch.ones(2)
    return {
        "mask": (torch.rand(batch, 1, 12, 16) > 0.5).float(),
        "bbox": torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).unflatten(-1, (4, 2)),
        "bbox_xyxy": boxes,
        "bbox_xywh": torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2] + ones], -1),
        "keypoints": torch.tensor([[1.0, 2.0], [7.0, 3.0]]).repeat(batch, 1, 1),
        "class": torch.arange(batch),
    }


class TestDataKeys:
    @pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("key", annotations())
    def test_pass_unchanged(self, key, p):
        x, value = images(2, 3, 12, 16), annotations()[key]
        pipeline = K.AugmentationSequential(make(p=p), data_keys=["input", key])
        view, out = pipeline(x, value)
        assert torch.equal(out, value)
        assert torch.equal(x, view) == (p == 0 or not pipeline._params[0].data["batch_prob"].any())

    @pytest.mark.parametrize("key", annotations())
    @pytest.mark.parametrize("order", [1, -1])
    def test_only_the_flip_moves_them_and_all_replay(self, key, order):
        x, value, flip, op = images(2, 3, 12, 16), annotations()[key], K.RandomHorizontalFlip(p=1.0), make()
        pipeline = K.AugmentationSequential(*(flip, op)[::order], data_keys=["input", key])
        view, out = pipeline(x, value)
        flipped, expected = K.AugmentationSequential(flip, data_keys=["input", key])(x, value)
        assert torch.equal(out, expected)
        assert torch.equal(out, value) == (key == "class")
        torch.testing.assert_close(distortion(flipped, view), budgets(0.05, 0.05))
        assert torch.equal(pipeline.transform_matrix, flip.transform_matrix)
        replayed = pipeline(x, value, params=pipeline._params)
        assert torch.equal(replayed[0], view)
        assert torch.equal(replayed[1], out)

    def test_dictionary(self):
        x, values = images(2, 3, 12, 16), annotations()
        out = K.AugmentationSequential(make(), data_keys=None)({"input": x, **values})
        assert out.keys() == {"input", *values}
        assert all(torch.equal(out[key], value) for key, value in values.items())
        torch.testing.assert_close(distortion(x, out["input"]), budgets(0.05, 0.05))

    def test_inverse_undoes_the_flip_alone(self):
        x, mask = images(2, 3, 12, 16), annotations()["mask"]
        pipeline = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), make(), data_keys=["input", "mask"])
        view, flipped = pipeline(x, mask)
        back, mask_back = pipeline.inverse(view, flipped)
        torch.testing.assert_close(back, view.flip(-1))
        assert torch.equal(mask_back, mask)
        torch.testing.assert_close(distortion(x, back), budgets(0.05, 0.05), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("p", [0.5, 1.0])
    def test_matrix_is_the_identity(self, p):
        op = make(p=p)
        op(images())
        assert torch.equal(op.transform_matrix, torch.eye(3).expand(4, 3, 3))

    @pytest.mark.parametrize("name", MOVING)
    @pytest.mark.parametrize("key", [key for key in annotations() if key != "class"])
    @pytest.mark.parametrize(
        "container",
        [
            lambda op, keys: K.AugmentationSequential(op, data_keys=keys),
            lambda op, keys: K.AugmentationSequential(K.ImageSequential(K.RandomHorizontalFlip(), op), data_keys=keys),
        ],
        ids=["direct", "nested"],
    )
    def test_moving_perturbations_are_refused(self, container, key, name):
        pipeline = container(make(perturbation=MOVING[name]), ["input", key])
        fails_with(ValueError, "data_keys.*moves pixels", pipeline, images(2, 3, 12, 16), annotations()[key])

    def test_moving_perturbations_are_refused_beside_lists_of_masks(self):
        pipeline = K.AugmentationSequential(make(perturbation="warp"), data_keys=["input", "mask"])
        fails_with(ValueError, "data_keys", pipeline, images(2, 3, 12, 16), list(annotations()["mask"]))

    def test_moving_perturbations_are_refused_beside_masks_of_videos(self):
        video = K.VideoSequential(make(perturbation="warp"), same_on_frame=True)
        pipeline = K.AugmentationSequential(video, data_keys=["input", "mask"])
        fails_with(ValueError, "data_keys", pipeline, images(2, 3, 3, 12, 16), torch.ones(2, 3, 1, 12, 16))

    @pytest.mark.parametrize("name", MOVING)
    def test_moving_perturbations_run_with_labels_or_alone(self, name):
        x, labels = images(2, 3, 12, 16), annotations()["class"]
        op = make(perturbation=MOVING[name])
        assert not torch.equal(K.AugmentationSequential(op)(x), x)
        view, out = K.AugmentationSequential(op, data_keys=["input", "class"])(x, labels)
        assert not torch.equal(view, x)
        assert torch.equal(out, labels)

    @pytest.mark.parametrize(
        "perturbation", ["spectral", ["colour", "blur"], {"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5}]
    )
    def test_other_perturbations_are_not_refused(self, perturbation):
        x, mask = images(2, 3, 12, 16), annotations()["mask"]
        view, out = K.AugmentationSequential(make(perturbation=perturbation), data_keys=["input", "mask"])(x, mask)
        assert torch.equal(out, mask)
        assert not torch.equal(view, x)


class Gain(nn.Module):
    """Something that learns, before a viewmaker."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.9, 1.0, 1.1])[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


class TestAdversary:
    @pytest.mark.parametrize("generator", SMALL)
    @pytest.mark.parametrize("p", [0.5, 1.0])
    def test_gradients(self, generator, p):
        """Reversed for the viewmaker, unreversed for what comes before it and for the input."""
        op, x = make(generator=generator, p=p), images(4, 3, 12, 12, dtype=torch.float64)
        pipeline = K.AugmentationSequential(Gain(), op, K.RandomHorizontalFlip(), K.RandomGaussianBlur((3, 3), (1, 2)))
        pipeline.double()(x)
        params = pipeline._params
        reversed_ = gradients(pipeline, x, params)
        op.reverse = False
        plain = gradients(pipeline, x, params)
        names = [*(name for name, _ in pipeline.named_parameters()), "input"]
        for name, a, b in zip(names, reversed_, plain, strict=True):
            torch.testing.assert_close(a, -b if "viewmaker" in name else b, rtol=1e-9, atol=1e-14, msg=name)
            # Instance norms cancel a constant that comes before them.
            if not (generator == "reference" and name.endswith(("conv.bias", "conv2.norm.bias"))):
                assert b.abs().max() > 1e-6, name

    def test_gradients_of_two_viewmakers(self):
        """A viewmaker before another one learns to raise the loss, too."""
        one, two, x = make(), make(), images(dtype=torch.float64)
        pipeline = K.AugmentationSequential(one, two).double()
        pipeline(x)
        params = pipeline._params
        reversed_ = gradients(pipeline, x, params)
        one.reverse = two.reverse = False
        plain = gradients(pipeline, x, params)
        for a, b in zip(reversed_[:-1], plain[:-1], strict=True):
            torch.testing.assert_close(a, -b, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(reversed_[-1], plain[-1], rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("reverse", [True, False])
    def test_an_optimizer_that_lowers_the_loss(self, reverse):
        pipeline, x, target = K.AugmentationSequential(make(reverse=reverse)), images(), images()
        pipeline(x)
        params = pipeline._params
        optimizer = torch.optim.SGD(pipeline.parameters(), lr=1.0)
        losses = []
        for _ in range(10):
            loss = (pipeline(x, params=params) - target).square().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rises = [later > earlier for earlier, later in itertools.pairwise(losses)]
        assert rises == [reverse] * 9

    def test_every_parameter_learns_in_a_whole_pipeline(self):
        op, x = make(), images(4, 3, 19, 26)
        view = K.AugmentationSequential(op, *simclr(nn.Identity()).children())(x)
        (view * torch.randn_like(view)).sum().backward()
        for name, p in op.named_parameters():
            assert p.grad.abs().max() > 1e-8, name

    @pytest.mark.parametrize("name", [name for name in PIPELINES if name not in {"op", "random_apply", "nested"}])
    def test_gradient_in_every_container(self, name):
        op = make()
        x = images(*(2, 3, 4, 19, 26) if name == "BCTHW" else VIDEO.get(name, (3, 3, 19, 26)))
        view = PIPELINES[name](op)(x)
        (view * torch.randn_like(view)).sum().backward()
        assert all(p.grad.abs().max() > 1e-8 for p in op.parameters())

    def test_both_players_learn(self):
        """An encoder lowers its loss against a viewmaker, and lowers it further if that one does not play."""

        def play(seed: int, lr: float, reverse: bool = True) -> tuple[float, float, float]:
            torch.manual_seed(seed)
            x = images(32, 3, 8, 8)
            labels = (x.mean((1, 2, 3)) > x.mean()).long()
            head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
            encoder = nn.Sequential(nn.Conv2d(3, 8, 3), head)
            pipeline = K.AugmentationSequential(K.RandomHorizontalFlip(), make(reverse=reverse))
            start = [p.detach().clone() for p in pipeline.parameters()]
            optimizer = JointOptimizer(torch.optim.Adam(encoder.parameters(), lr=0.05), pipeline.parameters(), lr=lr)
            losses = []
            for _ in range(40):
                loss = F.cross_entropy(encoder((pipeline(x) - 0.5) / 0.1), labels)
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            moved = max((a - b).abs().max().item() for a, b in zip(start, pipeline.parameters(), strict=True))
            return losses[0], sum(losses[-5:]) / 5, moved

        played = {}
        for name, options in {"against": (0.002,), "idle": (0.0,), "along": (0.05, False)}.items():
            first, last, moved = torch.tensor([play(seed, *options) for seed in range(4)]).mean(0).tolist()
            assert last < 0.6 * first
            assert (moved > 0.005) == (name != "idle")
            played[name] = last
        assert played["along"] < played["idle"] < played["against"]

    def test_frozen(self):
        op = make()
        op.viewmaker.requires_grad_(False)
        assert not op(images()).requires_grad
        x = images().requires_grad_()
        op(x).square().sum().backward()
        assert x.grad.abs().sum() > 0

    def test_no_gradient_wanted(self):
        with torch.no_grad():
            assert not make()(images()).requires_grad


class TestModule:
    @pytest.mark.parametrize("name", ["op", "simclr", "nested"])
    def test_deepcopy_of_a_trained_pipeline(self, name):
        pipeline, x = PIPELINES[name](make()), images(3, 3, 19, 26)
        view = pipeline(x)
        copy.deepcopy(pipeline)  # while the graph of the view is alive
        view.square().sum().backward()
        params = pipeline._params
        teacher = copy.deepcopy(pipeline)
        with torch.no_grad():
            for p in teacher.parameters():
                p.mul_(0.5)
        assert torch.equal(view, pipeline(x, params=params))
        assert not torch.equal(view, teacher(x, params=params))
        assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in pipeline.parameters()}
        teacher(x).sum().backward()
        assert teacher(images(2, 3, 21, 22)).shape[0] == 2  # draws for another size

    def test_moving_average(self):
        pipeline, x = K.AugmentationSequential(make()), images()
        teacher = AveragedModel(pipeline, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        for _ in range(3):
            pipeline(x).square().mean().backward()
            with torch.no_grad():
                for p in pipeline.parameters():
                    p.add_(0.1)
            teacher.update_parameters(pipeline)
        gaps = [(a - b).abs().max() for a, b in zip(pipeline.parameters(), teacher.parameters(), strict=True)]
        torch.testing.assert_close(torch.stack(gaps), torch.full((len(gaps),), 0.075))
        torch.testing.assert_close(distortion(x, teacher(x)), budgets(*[0.05] * 4))

    def test_no_graph_is_kept(self):
        """Of all that a call leaves on the pipeline."""
        op, x = make(p=0.5), images().requires_grad_()
        pipeline = K.AugmentationSequential(op)
        pipeline(x)
        left = [value for value in op._params.values() if isinstance(value, torch.Tensor)]
        left += [v for module in pipeline.modules() for v in vars(module).values() if isinstance(v, torch.Tensor)]
        assert left
        assert not any(value.requires_grad for value in left)

    def test_pickle_of_a_fresh_and_of_a_used_one(self):
        for copied in (COPIES["pickle"], COPIES["deepcopy"]):
            pipeline, x = simclr(make()), images(3, 3, 19, 26)
            for module in (copied(pipeline), copied(pipeline)):
                torch.manual_seed(2)
                view = module(x)
                torch.manual_seed(2)
                assert torch.equal(view, pipeline(x))

    def test_state_dict_holds_parameters_alone(self):
        pipeline, x = simclr(make()), images()

        def saved() -> bytes:
            file = io.BytesIO()
            torch.save(pipeline.state_dict(), file)
            return file.getvalue()

        fresh = saved()
        pipeline(x)
        assert len(saved()) == len(fresh)
        state = torch.load(io.BytesIO(saved()), weights_only=True)
        assert set(state) == {name for name, _ in pipeline.named_parameters()}
        storages = [value.untyped_storage().data_ptr() for value in pipeline.state_dict().values()]
        assert len(set(storages)) == len(storages)

    def test_state_dict_round_trip(self):
        one, two, x = simclr(make()), simclr(make()), images()
        view = one(x)
        assert not torch.equal(view, two(x, params=one._params))
        two.load_state_dict(one.state_dict())
        assert torch.equal(view, two(x, params=one._params))

    @pytest.mark.parametrize("wrap", [lambda op: op, simclr, PIPELINES["patches"], PIPELINES["video"]])
    def test_each_parameter_is_listed_once(self, wrap):
        op = make()
        expected = [id(p) for p in op.viewmaker.parameters()]
        assert [id(p) for p in wrap(op).parameters()] == expected
        every = [name for name, _ in wrap(op).named_parameters(remove_duplicate=False)]
        assert len(every) == len(expected)

    def test_another_viewmaker(self):
        """May be put in place of the first, such as one that was loaded."""
        op, x = make(), images()
        op.viewmaker = Viewmaker(**SMALL["reference"])
        torch.testing.assert_close(distortion(x, op(x)), budgets(*[0.05] * 4))


def tiny(**options) -> RandomViewmaker:
    return RandomViewmaker(Viewmaker(width=4, depth=1), **options)


def compiled(module: nn.Module):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


class TestTransforms:
    @pytest.mark.parametrize("p", [0.5, 1.0])
    @pytest.mark.parametrize("perturbation", ["additive", "spectral"])
    def test_gradcheck(self, perturbation, p):
        op, x = make(perturbation=perturbation, p=p).double(), images(2, 3, 6, 5, dtype=torch.float64).requires_grad_()
        op(x)
        params = {**op._params, "batch_prob": torch.tensor([1.0, 0.0])}
        assert torch.autograd.gradcheck(lambda x: op(x, params=params), x, fast_mode=True)

    def test_compile_with_given_params(self):
        op, x = tiny(), images(2, 3, 9, 14).requires_grad_()
        view, params = op(x), op._params
        (expected,) = torch.autograd.grad(view.square().sum(), x)
        again = compiled(op)(x, params=params)
        torch.testing.assert_close(again, view, rtol=0, atol=1e-5)
        (grad,) = torch.autograd.grad(again.square().sum(), x)
        torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-4)

    @DRAWS_IN_COMPILED
    def test_compile_with_drawing_inside(self):
        op, x = tiny(p=0.5), images(8, 3, 9, 14)
        run = compiled(op)
        view = run(x)
        assert 0 < op._params["batch_prob"].sum() < 8
        torch.testing.assert_close(distortion(x, view), 0.05 * op._params["batch_prob"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(op(x, params=op._params), view, rtol=0, atol=1e-5)
        params = op._params
        assert not torch.equal(run(x), view)
        view.square().sum().backward()
        grads = [p.grad for p in op.parameters()]
        op.zero_grad()
        op(x, params=params).square().sum().backward()
        torch.testing.assert_close(grads, [p.grad for p in op.parameters()], rtol=1e-3, atol=1e-4)

    @DRAWS_IN_COMPILED
    def test_compile_of_a_container(self):
        pipeline, x = K.AugmentationSequential(K.RandomHorizontalFlip(), tiny()), images()
        view = compiled(pipeline)(x)
        torch.testing.assert_close(pipeline(x, params=pipeline._params), view, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("generator", SMALL)
    def test_export_with_given_params(self, generator):
        op, x = make(generator=generator), images(2, 3, 9, 14)
        view, params = op(x), op._params
        module = torch.export.export(op, (x,), {"params": params}).module()
        torch.testing.assert_close(module(x, params=params), view, rtol=0, atol=1e-5)

    def test_export_with_drawing_inside(self):
        x = images(2, 3, 9, 14)
        module = torch.export.export(make(), (x,)).module()
        view = module(x)
        torch.testing.assert_close(distortion(x, view), budgets(0.05, 0.05), rtol=1e-4, atol=1e-6)
        assert not torch.equal(view, module(x))
