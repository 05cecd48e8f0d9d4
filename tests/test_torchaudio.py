"""The front end of audio encoders, and reading waveforms."""

import math

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from viewaug.adapters.torchaudio import LogMel, read_waveform
from viewaug.examples import audio_simclr

import viewaug

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")


def waveforms(count: int = 3, length: int = 2000, **options) -> torch.Tensor:
    return torch.randn(count, 1, length, generator=torch.Generator().manual_seed(0), **options)


@given(length=st.integers(65, 3000), hop=st.integers(1, 200), bands=st.integers(1, 40), channels=st.integers(1, 3))
def test_shapes(length, hop, bands, channels):
    log_mel = LogMel(8000, n_mels=bands, n_fft=128, hop_length=hop)
    assert log_mel(torch.randn(2, channels, length)).shape == (2, channels, bands, 1 + length // hop)


def test_formula():
    """Against NumPy: reflected edges, a periodic Hann window, power, triangles on the mel scale, decibels."""
    rate, window, hop, bands = 8000, 256, 64, 20
    x = waveforms(1, dtype=torch.float64)
    padded = np.pad(x[0, 0].numpy(), window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([padded[i : i + window] * hann for i in range(0, len(padded) - window + 1, hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    expected = (10 * np.log10(np.maximum(1e-10, power @ triangles)).T - 3.0) / 2.0
    found = LogMel(rate, n_mels=bands, n_fft=window, hop_length=hop, mean=3.0, std=2.0).double()(x)[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)  # torchaudio's triangles are of float32


def test_fit_is_of_all_batches_and_kept():
    log_mel = LogMel(8000, n_mels=10)
    whole = waveforms(5)
    assert log_mel.fit(whole.split(2)) is log_mel
    y = log_mel(whole)
    torch.testing.assert_close(y.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.std(correction=0), torch.tensor(1.0), rtol=0, atol=1e-4)
    other = LogMel(8000, n_mels=10)
    other.load_state_dict(log_mel.state_dict())
    assert torch.equal(other(whole), y)
    assert "mean=" in repr(log_mel)


def test_padding_does_not_count():
    """In the statistics, and in a view of the spectrogram."""
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 1, 4000), torch.tensor([4000, 2000, 1000])
    padded = torch.where(torch.arange(4000) < lengths[:, None, None], x, 0)
    log_mel = LogMel(8000)
    frames = log_mel.frames(lengths)
    assert frames.tolist() == [1 + 4000 // 64, 1 + 2000 // 64, 1 + 1000 // 64]
    assert log_mel(x).shape[-1] == frames[0]
    whole, part = (LogMel(8000).fit([batch]) for batch in (padded, (padded, lengths)))
    clean = LogMel(8000).fit([x])
    assert abs(part.mean - clean.mean) < 1 < abs(whole.mean - clean.mean)
    spectrogram = part(padded)
    view = viewaug.Viewmaker(1, value_range=None, budget=0.1)(spectrogram, lengths=frames)
    assert torch.equal(view[2, ..., frames[2] :], spectrogram[2, ..., frames[2] :])
    size = viewaug.distortion(spectrogram, view, lengths=frames)
    torch.testing.assert_close(size, torch.full((3,), 0.1), rtol=1e-3, atol=0)


def test_gradients():
    log_mel = LogMel(8000, n_mels=4, n_fft=32, hop_length=16).double()
    x = waveforms(1, 60, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(log_mel, x)
    silence = torch.zeros(1, 1, 60, dtype=torch.float64, requires_grad=True)
    log_mel(silence).sum().backward()
    assert silence.grad.isfinite().all()


def test_floor():
    silence = LogMel(8000, floor=-20)(torch.zeros(1, 1, 500))
    torch.testing.assert_close(silence, torch.full_like(silence, -20.0))
    assert LogMel(8000, floor=-20)(1e-4 * waveforms()).min() >= -20.001


def test_precision():
    log_mel = LogMel(8000)
    x = waveforms()
    exact = log_mel(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(x), exact)
    assert log_mel(x.bfloat16()).dtype == torch.float32
    assert log_mel.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("where", ["waveform", "spectrogram"])
def test_budget_is_in_the_units_of_what_is_perturbed(where):
    log_mel = LogMel(8000, n_mels=40).fit([waveforms()])
    viewmaker = viewaug.Viewmaker(1, dims=1 if where == "waveform" else 2, budget=0.1, value_range=None)
    augmentation = viewaug.AdversarialAugmentation(viewmaker)
    steps = [augmentation, log_mel] if where == "waveform" else [log_mel, augmentation]
    x = waveforms()
    y = nn.Sequential(*steps)(x)
    before = x if where == "waveform" else log_mel(x)
    torch.testing.assert_close(viewaug.distortion(before, viewmaker(before)), torch.full((3,), 0.1))
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in viewmaker.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_mels": 0}, "n_mels"),
        ({"hop_length": 0}, "hop_length"),
        ({"n_fft": -1}, "n_fft"),
        ({"f_min": 5000.0}, "f_min"),
        ({"f_max": 5000.0}, "f_max"),
        ({"std": 0.0}, "std"),
        ({"floor": -math.inf}, "floor"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LogMel(8000, **options)


def test_bad_input():
    log_mel = LogMel(8000, n_fft=256)
    for shape in ((2000,), (2, 2000), (1, 1, 128)):
        with pytest.raises(ValueError, match=r"\(B, C, T\)"):
            log_mel(torch.zeros(shape))
    with pytest.raises(TypeError, match="floats"):
        log_mel(torch.zeros(1, 1, 500, dtype=torch.int16))
    with pytest.raises(ValueError, match="at least one"):
        log_mel.fit([])
    with pytest.raises(ValueError, match="differ"):
        log_mel.fit([torch.zeros(1, 1, 500)])


def test_read_waveform(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, 0 * tone], 1), 16000)
    x = read_waveform(tmp_path / "a.wav")
    assert x.shape == (1, 16000)
    np.testing.assert_allclose(x[0].numpy(), tone / 2, atol=1e-4)
    half = read_waveform(tmp_path / "a.wav", 8000)
    assert half.shape == (1, 8000)
    np.testing.assert_allclose(half[0, 100:-100].numpy(), tone[::2][100:-100] / 2, atol=1e-3)
    with pytest.raises(FileNotFoundError, match=r"b\.wav"):
        read_waveform(tmp_path / "b.wav")
    (tmp_path / "b.wav").write_text("noise")
    with pytest.raises(ValueError, match=r"b\.wav"):
        read_waveform(tmp_path / "b.wav")
    with pytest.raises(ValueError, match="sample_rate"):
        read_waveform(tmp_path / "a.wav", 0)


@pytest.mark.long
def test_example(capsys):
    loss = audio_simclr.main(["--views", "both", "--epochs", "1", "--batch", "128"])
    assert 0 < loss < 1.5 * math.log(255)
    assert "epoch 0" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cast_to_half_precision(dtype):
    """As a part of a host that is: filters stay as they are, and what comes out fits what comes next."""
    x = waveforms()
    exact = LogMel(8000)(x)
    cast = torch.nn.Sequential(LogMel(8000)).to(dtype)
    assert cast(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(cast(x).float(), exact, rtol=0.01, atol=0.1)
    assert cast.float()(x).dtype == torch.float32
