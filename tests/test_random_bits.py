"""RandBits: the data, the crops, the command."""

import json

import numpy as np
import pytest
import torch
from viewaug.examples import random_bits
from viewaug.examples.random_bits import crop, digits, with_bits


def test_bits_are_channels():
    images = torch.rand(5, 1, 8, 8)
    x, values = with_bits(images, 3, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, :1], images)
    assert torch.equal(x[:, 1:], values[..., None, None].expand(5, 3, 8, 8).float())
    assert set(values.flatten().tolist()) == {0, 1}
    assert with_bits(images, 0, torch.Generator())[0].shape == (5, 1, 8, 8)


def test_crops_leave_the_bits():
    torch.manual_seed(0)
    x, _ = with_bits(torch.rand(6, 1, 8, 8), 2, torch.Generator().manual_seed(0))
    view = crop(x)
    assert view.shape == x.shape
    assert not torch.equal(view[:, :1], x[:, :1])
    assert torch.equal(view[:, 1:], x[:, 1:])


def test_digits(tmp_path):
    (x, y), (x_test, y_test) = digits("digits")
    assert x.shape == (898, 1, 8, 8)
    assert len(x_test) == len(y_test) == 899
    assert (x.min(), x.max()) == (0, 1)
    pixels = np.random.default_rng(0).integers(256, size=(20, 28, 28), dtype=np.uint8)
    labels = np.arange(20) % 10
    np.savez(tmp_path / "m.npz", x_train=pixels, y_train=labels, x_test=pixels[:7], y_test=labels[:7])
    (x, y), (x_test, _) = digits(str(tmp_path / "m.npz"))
    assert x.shape == (20, 1, 28, 28)
    assert len(x_test) == 7
    np.testing.assert_allclose(x[3, 0], pixels[3] / 255, rtol=1e-6)
    assert y.tolist() == labels.tolist()


def test_command_resumes(tmp_path, capsys):
    arguments = ["--bits", "0", "2", "--methods", "none", "handmade/learned", "--seeds", "1", "--steps", "2"]
    arguments += ["--out", str(tmp_path)]
    random_bits.main(arguments)
    printed = capsys.readouterr().out
    assert "| views | 0 bits | 2 bits |" in printed
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    order = [("none", 0), ("none", 2), ("handmade/learned", 0), ("handmade/learned", 2)]
    assert [(cell["method"], cell["bits"]) for cell in cells] == order
    assert all(0 <= cell["digit"] <= 100 for cell in cells)
    assert ["bit" in cell for cell in cells] == [False, True, False, True]
    assert (tmp_path / "digit.png").read_bytes().startswith(b"\x89PNG")
    random_bits.main(arguments)
    assert capsys.readouterr().out.endswith(printed)  # nothing ran again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.npz"], "none.npz"),
        (["--data", __file__], "cannot be read"),
        (["--methods", "dance"], "a method of none"),
        (["--bits", "-1"], "--bits"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_bad_arguments(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        random_bits.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
