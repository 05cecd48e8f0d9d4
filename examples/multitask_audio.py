"""The multi-task audio experiments of Feature Dropout (Tamkin et al., NeurIPS 2023): speech over noise.

Encoders are pretrained on mixtures that carry several labels, the spoken digit, the speaker and the kind of noise, with
the views of several methods; linear probes on frozen features tell how much they know of each. Every finished cell is a
file: a killed run goes on where it was, and several processes can share a folder.

python -m viewaug.examples.multitask_audio --preset cpu --speech fsdd/recordings --noise ESC-50 --out DIR
python -m viewaug.examples.multitask_audio --preset paper --speech AudioMNIST --noise noises --out DIR
python -m viewaug.examples.multitask_audio report --out DIR
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from viewaug.adapters.torchaudio import LogMel
from viewaug.examples.multitask import command
from viewaug.examples.multitask.experiment import Experiment, Settings
from viewaug.examples.multitask.methods import Variant
from viewaug.examples.multitask.mixtures import MIXTURES, Mixed
from viewaug.examples.multitask.noises import Noises, noises
from viewaug.examples.multitask.speech import Speech, speech
from viewaug.examples.multitask.transfer import SPEECH_SETS, Waveforms

from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.training import Training
from viewaug.comparison.views import Kind, Method, Views

LEARNED = ("learned", "waveform-learned", "waveform/learned", "expert/learned")


@dataclass(frozen=True, kw_only=True)
class AudioSettings(Settings):
    """What a result depends on, the cell aside."""

    speech: str = "synthetic"
    noise: str = "synthetic"
    clips: int | None = None  # of utterances, in either split; None for all
    sample_rate: int = 8000
    length: int = 5120  # samples
    snr: float = 5.0
    redraw: bool = True  # noise and the places of utterances, in every epoch
    n_mels: int = 40
    n_fft: int = 512
    hop_length: int = 160
    floor: float = -20.0  # dB, where an utterance has a power of 0
    repeats: int = 3  # of each utterance for testing, over other noise


PRESETS = {
    "quick": AudioSettings(clips=160, repeats=1, curve=1, training=Training(epochs=1, batch=64, precision="32-true")),
    "cpu": AudioSettings(training=Training(epochs=20, batch=128, lr=0.1, budget=0.1)),
    # 64 x 64 spectrograms of 1.04 s, as in the paper; its code has --temperature 0.07 and a batch of 128.
    "paper": AudioSettings(
        speech="AudioMNIST",
        sample_rate=48_000,
        length=50_000,
        n_mels=64,
        n_fft=2048,
        hop_length=788,
        curve=0,
        prepool=50_000,
        views_in_probe=True,
        training=Training(
            encoder="viewaug.examples.multitask_audio:resnet18",
            epochs=200,
            cosine=False,
            budget=0.125,
            precision="32-true",
        ),
    ),
    # The first paper's speech, as in its code: utterances of at most 9.4 s and who speaks; --mixtures speech.
    "speech": AudioSettings(
        speech="LibriSpeech",
        noise="none",
        sample_rate=16_000,
        length=150_526,
        n_mels=64,
        n_fft=2048,
        hop_length=2360,
        repeats=1,
        curve=0,
        prepool=50_000,
        training=Training(
            encoder="viewaug.examples.multitask_audio:resnet18",
            epochs=200,
            batch=128,
            cosine=False,
            temperature=0.07,
            precision="32-true",
        ),
    ),
}


def resnet18(channels: int) -> nn.Module:
    """The network for spectrograms of 64 x 64, with the stem for large images, as in the papers' code."""
    import timm

    return timm.create_model("resnet18", in_chans=channels, num_classes=0)


class AudioExperiment(Experiment):
    """Speech, noise, and speech over noise."""

    name = "mixtures"
    title = "Multi-task audio"
    group = "mixture"
    groups = MIXTURES
    tasks: ClassVar = {"digit": "digit", "speaker": "speaker", "noise": "noise"}
    methods = ("none", "noise", "expert", "waveform", "manual", *LEARNED)
    drawn = ("noise", "expert", "waveform", *LEARNED)
    own: ClassVar = {"waveform": "viewaug.comparison.handmade_audio:waveform_views"}
    variants: ClassVar = {
        "manual": ("expert", Variant(shared=0.5)),
        "waveform-learned": ("learned", Variant(waveforms=True)),
    }
    scorers = ("expert", "learned")
    value_range = None
    packages = ("torch", "torchaudio", "lightning", "lightly", "timm")
    # Feature Dropout, table 1.
    paper: ClassVar = {
        ("speech", "learned"): {"digit": 92.4},
        ("speech", "expert"): {"digit": 97.0},
        ("speech", "waveform"): {"digit": 76.7},
        ("noise", "learned"): {"noise": 100.0},
        ("noise", "expert"): {"noise": 32.64},
        ("noise", "waveform"): {"noise": 100.0},
        ("both", "learned"): {"digit": 60.8, "noise": 97.0},
        ("both", "expert"): {"digit": 10.1, "noise": 47.2},
        ("both", "waveform"): {"digit": 53.6, "noise": 43.3},
    }
    departures = """\
- The paper has AudioMNIST, 60 speakers at 48 kHz, and three recordings of noise; FSDD, six speakers at 8 kHz, and
  ESC-10, ten classes in 400 clips, stand in for them here, and a task that it does not have, the speaker.
- Both views have the same noise, as in the paper's text; in its code each view draws its own. A share of pairs that do
  not is the method `manual`, on top of `expert`.
- `waveform` crops, shifts, amplifies and adds noise; the paper's code crops and adds noise, its text says pitch and
  speed. `expert` is SpecAugment and noise, as in its code.
- Learned views come from this package's fast generator instead of the reference network, and learn by a reversed
  gradient in the encoder's step instead of in turns. `learned` goes without the waveform views that the paper's code
  adds to it; `waveform/learned` has them.
- The loss is NT-Xent with both views as anchors; its head has a hidden layer.
- Probes are logistic regressions by L-BFGS instead of 100 epochs of gradient descent."""

    def presets(self) -> Mapping[str, AudioSettings]:
        """Return the settings of each preset."""
        return PRESETS

    def check(self, settings: AudioSettings) -> None:
        """Read both splits."""
        for train in (True, False):
            self.data("both", Variant(), settings, 0, train=train)

    def kind(self, settings: AudioSettings, variant: Variant) -> Kind:
        """Standardised spectrograms, or waveforms."""
        frames = 1 + settings.length // settings.hop_length
        size = (settings.length,) if variant.waveforms else (settings.n_mels, frames)
        return Kind(1, size, None, [0.0], [1.0], "input")

    def transfers(self, settings: AudioSettings) -> Mapping[str, Waveforms]:
        """Return the data sets of speech."""
        return dict.fromkeys(SPEECH_SETS, Waveforms(settings.length, settings.sample_rate))

    def data(self, group: str, variant: Variant, settings: AudioSettings, seed: int, *, train: bool) -> Mixed:
        """Return mixtures."""
        return Mixed(
            _speech(settings.speech, train, settings.sample_rate, settings.clips),
            _silence(settings) if settings.noise == "none" else _noises(settings.noise, train, settings.sample_rate),
            group,
            length=settings.length,
            snr=settings.snr,
            repeats=1 if train else settings.repeats,
            train=train,
            seed=seed if train else 0,
            redraw=settings.redraw and train,
            shared_noise_probability=variant.shared if train else 1.0,
        )

    def encoder(self, group: str, settings: AudioSettings) -> tuple[nn.Sequential, int]:
        """Return a network that takes waveforms or their spectrograms."""
        (_, net), features = build_encoder(settings.training.encoder, 1)
        return nn.Sequential(FrontEnd(self._log_mel(group, settings)), net), features

    def augment(
        self, group: str, method: Method, views: Views, settings: AudioSettings
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what goes before the encoder, or before the viewmaker: waveforms or their spectrograms come out."""
        steps: list[nn.Module] = [] if views.augment is None else [Call(views.augment)]
        first = (method.under or method).maker == "waveform"
        if len(steps) > first or (views.viewmaker is not None and views.viewmaker.dims == 2):
            steps.insert(first, self._log_mel(group, settings))
        return nn.Sequential(*steps) if steps else None

    def as_seen(self, group: str, settings: AudioSettings, x: Tensor) -> Tensor:
        """Return spectrograms."""
        seen: Tensor = FrontEnd(self._log_mel(group, settings))(x)
        return seen

    def _log_mel(self, group: str, settings: AudioSettings) -> LogMel:
        """Return a front end whose mean and standard deviation are those of training mixtures."""
        return copy.deepcopy(_fitted_log_mel(group, settings))  # each user moves it to a device of its own


@functools.lru_cache(2)
def _speech(source: str, train: bool, sample_rate: int, count: int | None) -> Speech:
    return speech(source, train=train, sample_rate=sample_rate).some(count)


@functools.lru_cache(2)
def _noises(source: str, train: bool, sample_rate: int) -> Noises:
    return noises(source, train=train, sample_rate=sample_rate)


def _silence(settings: AudioSettings) -> Noises:
    return Noises([torch.zeros(settings.length)], torch.tensor([0]))


@functools.lru_cache(1)
def _fitted_log_mel(group: str, settings: AudioSettings) -> LogMel:
    data = AudioExperiment().data(group, Variant(), settings, 0, train=True)
    waveforms = data.__getitems__(range(min(1000, len(data))))["views"][0]
    shape = {name: getattr(settings, name) for name in ("sample_rate", "n_mels", "n_fft", "hop_length", "floor")}
    return LogMel(**shape).fit(waveforms.split(100))


class FrontEnd(nn.Module):
    """Turns waveforms into spectrograms, and leaves what are spectrograms already."""

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        self.log_mel = log_mel

    def forward(self, x: Tensor) -> Tensor:
        return self.log_mel(x) if x.ndim == 3 else x


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and report; or report only."""
    sources = {
        "speech": "synthetic, speechcommands (downloaded), FSDD, as .npz or a folder, or the folder of AudioMNIST or "
        "LibriSpeech",
        "noise": "synthetic, none, an .npz file of ESC-10, ESC-50's folder, or one with a folder or a file of each",
    }
    command.main(AudioExperiment(), str(__doc__), sources, arguments)


if __name__ == "__main__":
    main()
