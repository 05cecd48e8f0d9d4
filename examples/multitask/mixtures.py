"""Speech over noise, as the Feature Dropout paper has it."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from viewaug.examples.multitask.noises import Noises
from viewaug.examples.multitask.pairs import Pairs
from viewaug.examples.multitask.speech import Speech

MIXTURES = ("both", "speech", "noise")


class Mixed(Pairs):
    """Waveforms of speech, of noise or of both, in pairs for contrastive learning.

    Where an utterance begins is drawn, and which noise it has. Utterances have a power of 1, and noise that which the
    ratio leaves it; of a clip of noise, the parts are used that are at least half as loud as its loudest.

    An item is a dictionary: ``views``, two waveforms ``(1, T)``; the utterance's labels; and ``noise``, the noise's
    label (of the first view).

    Args:
        speech: the utterances; there are as many items, whatever the mixture.
        noises: the noise.
        mixture: a name of :data:`MIXTURES`.
        length: of the waveforms, in samples.
        snr: power of speech to noise, in dB.
        repeats: how many items there are of each utterance.
        train: whether for training.
        seed: of all that is drawn.
        redraw: draw anew in each epoch; see `epoch`.
        shared_noise_probability: how likely both views have the same noise, and not one drawn anew: less than 1 is the
            manual feature dropout of the paper's authors; 0 is what their released code does.

    Examples:
        >>> from viewaug.examples.multitask.noises import noises
        >>> from viewaug.examples.multitask.speech import speech
        >>> source = {"source": "synthetic", "train": True, "sample_rate": 8000}
        >>> data = Mixed(speech(**source), noises(**source), "both", length=4000, train=True)
        >>> item = data[0]
        >>> item["views"][0].shape, sorted(item)
        (torch.Size([1, 4000]), ['digit', 'index', 'noise', 'speaker', 'views'])
    """

    drawn = "noise"

    def __init__(
        self,
        speech: Speech,
        noises: Noises,
        mixture: str,
        *,
        length: int,
        snr: float = 5.0,
        repeats: int = 1,
        train: bool,
        seed: int = 0,
        redraw: bool = False,
        shared_noise_probability: float = 1.0,
    ) -> None:
        if mixture not in MIXTURES:
            raise ValueError(f"Expected `mixture` to be one of {', '.join(MIXTURES)}, but got {mixture!r}.")
        shortest = min(range(len(noises.clips)), key=lambda i: len(noises.clips[i]))
        most, name = len(noises.clips[shortest]), (*noises.names, *[""] * len(noises.clips))[shortest]
        if not 0 < length <= most:
            which = f" of {name}" if name else ""
            raise ValueError(
                f"Expected `length` from 1 to {most} samples, those{which} that there are, but got {length}."
            )
        super().__init__(train=train, seed=seed, redraw=redraw, shared=shared_noise_probability)
        self.speech, self.noises, self.mixture = speech, noises, mixture
        self.length, self.repeats = length, repeats
        self._gain = 10 ** (-snr / 20)
        self._clips = Clips([_to_power(clip[_middle(len(clip), length)]) for clip in speech.clips])
        self._noise = Clips(noises.clips)
        self._loud = [_loud_starts(clip, length) for clip in noises.clips]
        self._power: dict[tuple[int, int], float] = {}
        self._of_class = [(noises.label == label).nonzero().flatten() for label in range(int(noises.label.max()) + 1)]

    def __len__(self) -> int:
        return self.repeats * len(self.speech.clips)

    def to(self, device: torch.device) -> Self:
        """Keep the sounds on a device, where they are mixed; what comes of it stays the same, to the bit."""
        self._clips, self._noise = self._clips.to(device), self._noise.to(device)
        return self

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the views and labels of some inputs."""
        x = torch.zeros(len(indices), 1, self.length, device=self._clips.samples.device)
        batch: dict[str, Any] = {}
        if self.mixture != "noise":
            chosen = [i % len(self.speech.clips) for i in indices]
            room = [self.length - self._clips.lengths[i] + 1 for i in chosen]
            starts = [-int(self.rng(i, 2).integers(most)) for i, most in zip(indices, room, strict=True)]
            x = self._clips.cut(chosen, starts, self.length)[:, None]
            batch |= {name: label[chosen] for name, label in self.speech.labels.items()}
        if self.mixture == "speech":
            return {"views": [x, x], **batch}
        first, second = self.draw_pairs(indices, self._draw)
        view = x + self._noises(first)
        views = [view, view if second is first else x + self._noises(second)]
        return {"views": views, **batch, "noise": torch.tensor([label for label, _, _ in first])}

    def _draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a label, a clip, and where in it."""
        label = int(rng.integers(len(self._of_class)))
        clip = int(rng.choice(self._of_class[label]))
        return label, clip, int(rng.choice(self._loud[clip]))

    def _noises(self, drawn: Sequence[tuple[int, int, int]]) -> Tensor:
        found = self._noise.cut([clip for _, clip, _ in drawn], [start for *_, start in drawn], self.length)
        powers = torch.tensor([self._root_of_power(clip, start) for _, clip, start in drawn], device=found.device)
        return (self._gain * (found / powers[:, None]))[:, None]

    def _root_of_power(self, clip: int, start: int) -> float:
        """Return it as it is on the CPU: other devices sum in another order."""
        if (clip, start) not in self._power:
            part = self.noises.clips[clip][start : start + self.length]
            self._power[clip, start] = _root_of_power(part).item()
        return self._power[clip, start]


class Clips:
    """Sounds of any lengths in one tensor, of which many parts are cut out at once."""

    def __init__(self, clips: Sequence[Tensor]) -> None:
        self.lengths = [len(clip) for clip in clips]
        self.samples = torch.cat(list(clips))
        self._offsets = torch.tensor([0, *self.lengths]).cumsum(0)[:-1]

    def to(self, device: torch.device) -> Self:
        """Move the samples."""
        self.samples = self.samples.to(device)
        return self

    def cut(self, which: Sequence[int], starts: Sequence[int], length: int) -> Tensor:
        """Return parts of clips, ``(N, length)``, with silence before a clip, where a start is negative, and after."""
        device = self.samples.device
        sizes, offsets = torch.tensor([self.lengths[i] for i in which]), self._offsets[list(which)]
        begin, sizes, offsets = (row.to(device)[:, None] for row in (torch.tensor(starts), sizes, offsets))
        place = begin + torch.arange(length, device=device)
        inside = (place >= 0) & (place < sizes)
        return torch.where(inside, self.samples[torch.where(inside, offsets + place, 0)], 0.0)


def _root_of_power(x: Tensor) -> Tensor:
    return x.square().mean().sqrt().clamp(min=1e-6)


def _to_power(x: Tensor) -> Tensor:
    return x / _root_of_power(x)


def _middle(length: int, most: int) -> slice:
    start = max(0, (length - most) // 2)
    return slice(start, start + most)


def _loud_starts(clip: Tensor, length: int) -> np.ndarray:
    starts = torch.arange(0, len(clip) - length + 1, max(1, length // 4))
    power = clip.unfold(0, length, max(1, length // 4)).square().mean(1)
    return starts[power >= 0.25 * power.max()].numpy()
