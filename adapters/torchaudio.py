"""torchaudio: the front end of audio encoders, from waveforms to normalised log-mel spectrograms, in the graph."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from viewaug._checks import check_count
from viewaug._sounds import read_sound
from viewaug.budget import full_precision, never_in
from viewaug.masks import within_lengths

try:
    from torchaudio.functional import amplitude_to_DB, resample
    from torchaudio.transforms import MelSpectrogram
except ImportError as error:
    raise ImportError("viewaug.adapters.torchaudio needs torchaudio: pip install 'viewaug[audio]'") from error


class LogMel(nn.Module):
    """Turns waveforms into log-mel spectrograms of zero mean and unit standard deviation over a data set.

    A viewmaker before it perturbs the waveform, in the waveform's units; one after it the spectrogram, in standard
    deviations. It is differentiable, and computes in float32 or wider, also under autocast; where the module is cast to
    half precision, spectrograms are, but not its filters.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_mels: number of mel bands, F.
        n_fft: samples of a window.
        hop_length: samples from one window to the next; by default a quarter of one.
        f_min: lowest frequency, in Hz.
        f_max: highest frequency, in Hz; by default half the sample rate.
        floor: the least power of a band, in dB, so that digital silence is not far below all sound.
        mean: of the data set's decibels; :meth:`fit` estimates it.
        std: of the data set's decibels; :meth:`fit` estimates it.

    The last two are buffers, ``mean`` and ``std``, so that a checkpoint keeps them.

    Shape:
        - input: ``(B, C, T)``, with T of more than ``n_fft / 2``.
        - output: ``(B, C, F, 1 + T // hop_length)``.

    Raises:
        ValueError, TypeError: for an argument or an input that is out of its range or of the wrong type.

    Examples:
        >>> waveforms = torch.randn(4, 1, 8000)
        >>> log_mel = LogMel(8000, n_mels=40).fit([waveforms])
        >>> x = log_mel(waveforms)
        >>> x.shape
        torch.Size([4, 1, 40, 126])
        >>> abs(x.mean().item()) < 1e-4, abs(x.std().item() - 1) < 1e-4
        (True, True)
        >>> view = viewaug.Viewmaker(1, budget=0.1, value_range=None)(x)  # a tenth of a standard deviation
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        n_mels: int = 64,
        n_fft: int = 256,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = -100.0,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        hop_length = max(1, n_fft // 4) if hop_length is None else hop_length
        for name, value in (
            ("sample_rate", sample_rate),
            ("n_mels", n_mels),
            ("n_fft", n_fft),
            ("hop_length", hop_length),
        ):
            check_count(name, value, 1)
        if not 0 <= f_min < (sample_rate / 2 if f_max is None else f_max) <= sample_rate / 2:
            raise ValueError(
                f"Expected `f_min` below `f_max`, both from 0 to half the sample rate, but got {f_min} and {f_max}."
            )
        if not -math.inf < floor < math.inf:
            raise ValueError(f"Expected `floor` to be finite, but got {floor}.")
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"Expected `mean` to be finite and `std` to be positive, but got {mean} and {std}.")
        self.sample_rate, self.n_fft, self.hop_length, self.floor = sample_rate, n_fft, hop_length, float(floor)
        self._mel = MelSpectrogram(
            sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, f_min=f_min, f_max=f_max
        )
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        self._dtype = self.std.dtype

    def forward(self, x: Tensor) -> Tensor:
        return ((self._to_decibels(x) - self.mean) / self.std).to(self._dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast it; its filters stay in float32 or wider, as a Fourier transform needs."""
        self._dtype = fn(self.mean).dtype
        return super()._apply(never_in((torch.float16, torch.bfloat16), fn), recurse)

    def frames(self, lengths: Tensor) -> Tensor:
        """Return how many frames of the spectrogram stand for so many samples: the `lengths` of a view of it."""
        return 1 + lengths // self.hop_length

    @torch.no_grad()
    def fit(self, waveforms: Iterable[Tensor | tuple[Tensor, Tensor]]) -> "LogMel":
        """Estimate ``mean`` and ``std``, and return the module.

        Args:
            waveforms: batches, ``(B, C, T)``, or pairs of these and of lengths, ``(B,)``, if they are padded.
        """
        count, total, squares = 0, 0.0, 0.0
        for batch in waveforms:
            x, lengths = batch if isinstance(batch, (tuple, list)) else (batch, None)
            decibels = self._to_decibels(x).cpu().double()  # some devices have no float64
            if lengths is not None:
                inside = within_lengths(decibels, self.frames(lengths))
                decibels = decibels[inside.expand_as(decibels)]
            count += decibels.numel()
            total += decibels.sum().item()
            squares += decibels.square().sum().item()
        if not count:
            raise ValueError("Expected `waveforms` of at least one batch, but got none.")
        variance = squares / count - (total / count) ** 2
        if not 0 < variance < math.inf:
            raise ValueError("Expected `waveforms` that are finite and differ, but their decibels do not.")
        self.mean.fill_(total / count)
        self.std.fill_(math.sqrt(variance))
        return self

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate}, mean={self.mean.item():.4g}, std={self.std.item():.4g}"

    def _to_decibels(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"Expected waveforms of floats, but got {x.dtype if isinstance(x, Tensor) else type(x)}.")
        if x.ndim != 3 or x.shape[-1] <= self.n_fft // 2:
            raise ValueError(
                f"Expected waveforms (B, C, T) of more than {self.n_fft // 2} samples, half a window, "
                f"but got the shape {tuple(x.shape)}."
            )
        with full_precision(x):
            power = self._mel(x.to(self.mean.dtype))
            # Without a limit below the loudest, which would let samples change each other.
            decibels: Tensor = amplitude_to_DB(power, 10.0, 10 ** (self.floor / 10), 0.0)
        return decibels


def read_waveform(path: str | Path, sample_rate: int | None = None) -> Tensor:
    """Read a sound file by soundfile, take the mean of its channels, and resample it by torchaudio.

    torchaudio's own reader needs FFmpeg's libraries; this needs none.

    Args:
        path: a file of any format that soundfile reads, such as .wav, .flac, .ogg and .mp3.
        sample_rate: to resample to, in Hz; None for the file's own.

    Returns:
        The waveform, ``(1, T)``, in -1 to 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or for a bad `sample_rate`.
    """
    if sample_rate is not None:
        check_count("sample_rate", sample_rate, 1)
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a sound file at {path}, but there is none.")
    try:
        waveform, rate = read_sound(Path(path))
    except ImportError:
        raise
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{path} cannot be read: {error}") from error
    resampled: Any = waveform if sample_rate is None else resample(waveform, rate, sample_rate)
    return resampled
