"""RandBits: the data, the views, the command."""

import json

import numpy as np
import pytest
import torch
from viewaug.examples import random_bits
from viewaug.examples.random_bits import Settings, digits, views_of, with_bits

import viewaug


def test_bits_are_channels():
    images = torch.rand(5, 1, 8, 8)
    x, values = with_bits(images, 3, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, :1], images)
    assert torch.equal(x[:, 1:], values[..., None, None].expand(5, 3, 8, 8).float())
    assert set(values.flatten().tolist()) == {0, 1}
    assert with_bits(images, 0, torch.Generator())[0].shape == (5, 1, 8, 8)


@pytest.mark.parametrize("method", random_bits.METHODS)
def test_views(method):
    torch.manual_seed(0)
    x, _ = with_bits(torch.rand(6, 1, 8, 8), 2, torch.Generator().manual_seed(0))
    make, viewmaker = views_of(method, Settings(budget=0.1), 3, 8)
    views = make(x)
    assert [view.shape for view in views] == [x.shape] * 2
    assert (viewmaker is not None) == ("learned" in method)
    if "handmade" not in method:
        budget = 0.1 if method in ("noise", "learned") else 0.0
        for view in views:
            torch.testing.assert_close(viewaug.distortion(x, view), torch.full((6,), budget))
    else:
        assert not torch.equal(views[0][:, :1], views[1][:, :1])
        assert torch.equal(views[0][:, 1:], x[:, 1:]) == (method == "handmade")


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
    arguments = ["--bits", "0", "2", "--methods", "none", "learned", "--seeds", "1", "--steps", "2", "--workers", "1"]
    arguments += ["--out", str(tmp_path)]
    random_bits.main(arguments)
    printed = capsys.readouterr().out
    assert "| views | 0 bits | 2 bits |" in printed
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [(cell["method"], cell["bits"]) for cell in cells] == [
        ("none", 0),
        ("none", 2),
        ("learned", 0),
        ("learned", 2),
    ]
    assert all(0 <= cell["digit"] <= 100 for cell in cells)
    assert ["bit" in cell for cell in cells] == [False, True, False, True]
    assert (tmp_path / "digit.png").read_bytes().startswith(b"\x89PNG")
    random_bits.main(arguments)
    assert capsys.readouterr().out == printed  # nothing ran again
    with pytest.raises(SystemExit):
        random_bits.main([*arguments, "--budget", "0.2"])
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.npz"], "--data"),
        (["--data", __file__], "cannot be read"),
        (["--methods", "dance"], "--methods"),
        (["--bits", "-1"], "--bits"),
        (["--budget", "0"], "--budget"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        random_bits.main(arguments)
    assert message in capsys.readouterr().err
