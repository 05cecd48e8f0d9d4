"""The original network: parity with outputs of the authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch

import viewaug
from viewaug import Viewmaker

GOLDEN = np.load(Path(__file__).parent / "viewmaker_golden.npz")


def field(shape: tuple[int, ...], phase: float) -> torch.Tensor:
    """A reproducible field in [0, 1), from which the golden outputs were made."""
    k = np.arange(np.prod(shape), dtype=np.float64)
    values = np.abs(np.sin(12.9898 * k + 78.233 * phase)) * 43758.5453
    return torch.from_numpy((values % 1).reshape(shape).astype(np.float32))


def original_state_dict(channels: int) -> dict[str, torch.Tensor]:
    """An original checkpoint's state dict with parameters made by formula, unused residual blocks included."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, out: int, fan: int, kernel: int, norm: str | None) -> None:
        shapes[f"{name}.conv2d.weight"] = (out, fan, kernel, kernel)
        shapes[f"{name}.conv2d.bias"] = (out,)
        if norm:
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (out,)

    convolution("conv1", 32, channels + 1, 9, "in1")
    convolution("conv2", 64, 32, 3, "in2")
    convolution("conv3", 128, 64, 3, "in3")
    for i in range(1, 6):
        for j in (1, 2):
            convolution(f"res{i}.conv{j}", 128 + i, 128 + i, 3, f"res{i}.in{j}")
    convolution("deconv1", 64, 131, 3, "in4")
    convolution("deconv2", 32, 64, 3, "in5")
    convolution("deconv3", channels, 32, 9, None)

    state = {}
    for i, (name, shape) in enumerate(shapes.items()):
        s = np.sin(0.7 * np.arange(np.prod(shape)) + i).reshape(shape)
        if name.endswith("bias"):
            value = 0.05 * s
        elif len(shape) == 4:
            value = s / np.sqrt(np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * s
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("image_clamped", 3, {}),
        ("image_unclamped", 3, {"clamp": False}),
        ("spectrogram", 1, {"budget": 0.125, "clamp": False}),
        ("image_dct", 3, {"frequency_domain": True}),
    ],
)
def test_parity_with_the_original(name, channels, options):
    viewmaker = Viewmaker.from_reference(original_state_dict(channels), **options)
    x = field((2, channels, 32, 32), 0.5)
    if name == "spectrogram":
        x = 4 * x - 2
    shapes = [(2, 1, 32, 32)] + 3 * [(2, 1, 8, 8)]
    noise = tuple(field(shape, 1 + j) for j, shape in enumerate(shapes))
    assert [tuple(n.shape) for n in viewmaker.draw_noise(x)] == shapes
    view = viewmaker(x, noise)
    np.testing.assert_allclose(view.detach().numpy(), GOLDEN[name], rtol=0, atol=1e-5)
    assert np.abs(GOLDEN[name] - x.numpy()).max() > 0.01  # the golden view is not the input


def test_unused_blocks_are_dropped():
    viewmaker = Viewmaker.from_reference(original_state_dict(3))
    assert sum(p.numel() for p in viewmaker.parameters()) == 1_120_131
    assert len(viewmaker.generator.blocks) == 3


def test_foreign_state_dict():
    with pytest.raises(ValueError, match=r"`state_dict`.*deconv1"):
        Viewmaker.from_reference({"fc.weight": torch.zeros(2, 2)})


def test_incomplete_state_dict():
    state = original_state_dict(3)
    del state["res2.in1.bias"]
    with pytest.raises(ValueError, match=r"`state_dict`.*blocks\.1\.conv1\.norm\.bias"):
        Viewmaker.from_reference(state)


@pytest.mark.parametrize("prefix", ["", "viewmaker.", "model.viewmaker.", "view."])
@pytest.mark.parametrize("whole", [False, True])
def test_checkpoints_of_the_authors_systems(prefix, whole):
    state = {f"{prefix}{name}": value for name, value in original_state_dict(3).items()}
    state |= {"model.conv1.weight": torch.zeros(2, 2), "memory_bank": torch.zeros(3)}
    viewmaker = Viewmaker.from_reference({"state_dict": state, "epoch": 3} if whole else state)
    plain = Viewmaker.from_reference(original_state_dict(3))
    x = field((1, 3, 32, 32), 0.5)
    noise = plain.draw_noise(x)
    assert torch.equal(viewmaker(x, noise), plain(x, noise))
    with pytest.raises(ValueError, match="one viewmaker, but it holds"):
        Viewmaker.from_reference({**state, **{f"other.{k}": v for k, v in original_state_dict(3).items()}})


def test_other_activation(tmp_path):
    """Of the layers before and after the residual blocks, which have ReLU whatever is asked for."""
    plain, leaky = (Viewmaker.from_reference(original_state_dict(3), activation=a) for a in ("relu", "leaky_relu"))
    x = field((1, 3, 32, 32), 0.5)
    noise = plain.draw_noise(x)
    viewaug.save(leaky, tmp_path / "leaky.safetensors")
    view = viewaug.load(tmp_path / "leaky.safetensors")(x, noise)
    assert torch.equal(view, leaky(x, noise))
    assert (view - plain(x, noise)).abs().mean() > 1e-5
    with pytest.raises(ValueError, match=r"`activation`.*'tanh'"):
        Viewmaker.from_reference(original_state_dict(3), activation="tanh")


def test_without_residual_blocks():
    state = original_state_dict(3)
    state["deconv1.conv2d.weight"] = state["deconv1.conv2d.weight"][:, :128]
    viewmaker = Viewmaker.from_reference(state)
    assert len(viewmaker.generator.blocks) == 0
    x = field((1, 3, 32, 32), 0.5)
    assert viewmaker(x).shape == x.shape


def test_wrong_shapes():
    state = original_state_dict(3)
    state["res1.conv1.conv2d.weight"] = torch.zeros(7, 7, 3, 3)
    with pytest.raises(ValueError, match=r"blocks\.0\.conv1\.conv\.weight of shape \(129, 129, 3, 3\)"):
        Viewmaker.from_reference(state)
