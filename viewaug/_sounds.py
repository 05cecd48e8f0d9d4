"""Read and write sound files, by soundfile."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewaug._files import replacing

SOUNDS = (".wav", ".flac", ".ogg")


def sample_rate(path: Path) -> int:
    """Return a file's sample rate in Hz."""
    return int(_soundfile().info(path).samplerate)


def read_sound(path: Path) -> tuple[Tensor, int]:
    """Return the mean of a file's channels, ``(1, T)`` in -1 to 1, and its sample rate in Hz."""
    samples, rate = _soundfile().read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples).mean(1)[None], int(rate)


def write_sound(path: Path, waveform: Tensor, rate: int) -> None:
    """Write a waveform, ``(1, T)``, as 32-bit floats, which no value overflows."""
    with replacing(path) as temporary:
        _soundfile().write(temporary, waveform.detach().float().cpu().T.numpy(), rate, subtype="FLOAT")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("Sound files need soundfile: pip install 'viewaug[audio]'") from error
    return soundfile
