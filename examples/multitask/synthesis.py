"""Spoken digits in many voices, by eSpeak NG as the package ``espeakng-loader`` has it, and noise to put under them."""

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import bandpass_biquad, lowpass_biquad, resample

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("m1", "f1", "m2", "f2", "m3", "f3", "m5", "f4", "m7", "f5")  # what eSpeak NG calls variants
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
TAKES = ((150, 40), (175, 50), (200, 60))  # words a minute, and pitch from 0 to 99
NOISES = ("babble", "traffic", "machine")
_SYNCHRONOUS, _UTF8, _CHARACTERS, _RATE, _PITCH = 2, 1, 1, 1, 3  # of the library's interface


class Utterance(NamedTuple):
    """A spoken digit: a waveform, ``(T,)``, without silence around it, and what it is."""

    waveform: Tensor
    digit: int
    voice: int
    take: int


@functools.cache
def utterances(sample_rate: int) -> list[Utterance]:
    """Return every digit in every voice, accent and take, 1200 of them, always the same.

    Examples:
        >>> first = utterances(8000)[0]
        >>> first.waveform.ndim, first.digit, first.voice
        (1, 0, 0)
    """
    return [
        Utterance(resample(waveform, rate, sample_rate), digit, voice, take)
        for waveform, rate, digit, voice, take in _spoken()
    ]


@functools.cache
def _spoken() -> list[tuple[Tensor, int, int, int, int]]:
    # All in one go: what the library says depends on what it said before.
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise OSError("eSpeak NG, of the package espeakng-loader, does not start.")
    samples: list[Any] = []

    def keep(wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(keep)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # voices flutter
    spoken = []
    for voice, variant in enumerate(VOICES):
        for accent in ACCENTS:
            if library.espeak_SetVoiceByName(f"{accent}+{variant}".encode()) != 0:
                raise OSError(f"eSpeak NG, of the package espeakng-loader, has no voice {accent}+{variant}.")
            for take, (speed, pitch) in enumerate(TAKES):
                library.espeak_SetParameter(_RATE, speed, 0)
                library.espeak_SetParameter(_PITCH, pitch, 0)
                for digit, word in enumerate(WORDS):
                    samples.clear()
                    text = word.encode() + b"\0"
                    library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _CHARACTERS, 0, _UTF8, None, None)
                    library.espeak_Synchronize()
                    waveform = torch.from_numpy(np.concatenate(samples)).float() / 2**15
                    loud = (waveform.abs() > 0.02 * waveform.abs().max()).nonzero()
                    spoken.append((waveform[int(loud[0]) : int(loud[-1]) + 1], rate, digit, voice, take))
    library.espeak_Terminate()
    return spoken


def noise(kind: str, voices: range, generator: torch.Generator, sample_rate: int, seconds: float = 5.0) -> Tensor:
    """Return noise, ``(T,)``: babble of voices, or filtered noise as of traffic or of a machine.

    Args:
        kind: one of :data:`NOISES`.
        voices: the voices that babble, as indices of :data:`VOICES`.
        generator: of what is random.
        sample_rate: in Hz.
        seconds: how long.

    Examples:
        >>> noise("traffic", range(2), torch.Generator().manual_seed(0), 8000, 0.5).shape
        torch.Size([4000])
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    length = round(seconds * sample_rate)
    t = torch.arange(length) / sample_rate
    if kind == "babble":
        heard = [u.waveform for u in utterances(sample_rate) if u.voice in voices]
        x = torch.zeros(length)
        for _ in range(round(12 * seconds)):
            word = heard[int(torch.randint(len(heard), (), generator=generator))][:length]
            start = int(torch.randint(length - len(word) + 1, (), generator=generator))
            x[start : start + len(word)] += word
        return x
    white = torch.randn(length, generator=generator)
    if kind == "traffic":  # a low rumble that comes and goes
        rumble = lowpass_biquad(white, sample_rate, uniform(150, 600))
        passing = 1 + 0.9 * torch.sin(2 * torch.pi * (uniform(0.1, 0.4) * t + uniform(0, 1)))
        return rumble * passing
    hum = uniform(60, 180)
    tones = sum(torch.sin(2 * torch.pi * hum * k * t) / k for k in range(1, 9))
    hiss = bandpass_biquad(white, sample_rate, uniform(800, 2500))
    strokes = (torch.sin(2 * torch.pi * uniform(4, 12) * t) > 0).float()
    return 0.1 * tones + hiss * strokes
