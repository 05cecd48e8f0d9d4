"""Train the viewmakers that come with the package, and say on their cards what was measured.

Each is trained against an encoder as ``viewaug compare`` trains it, and then measured on inputs that are held out: how
far views are from their inputs, how far apart they are for an encoder that knows only the random twin, and how often an
independent scorer, trained by labels, no longer finds a label in them.

python -m viewaug.examples.trained NAME [--data PATH] [--out DIR]
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from viewaug.adapters.torchaudio import LogMel
from viewaug.examples import demo
from viewaug.examples.multitask.backgrounds import backgrounds
from viewaug.examples.multitask.speech import speech
from viewaug.examples.smartwatch import smartwatch

from viewaug import Viewmaker, hub
from viewaug.checkpoints import shipped
from viewaug.commands._arguments import positive
from viewaug.comparison.arrays import ROLES, UNKNOWN, VALIDATION, Arrays
from viewaug.comparison.cells import Cell, Settings, Trained, kind_of, pretrain, probe
from viewaug.comparison.proxies import alignment
from viewaug.comparison.views import parse
from viewaug.diagnosis import Data, score, summarise

RATE = 8000  # of sounds, in Hz
LENGTH = RATE // 2  # of a sound, in samples
STEPS, BATCH = 400, 64
_LOOK, _VIEWS = 256, 8  # held-out inputs, and views of each, that are measured


class Recipe(NamedTuple):
    """What a viewmaker is trained on, and how.

    Attributes:
        made_for: in a few words.
        method: of ``viewaug compare``.
        arrays: makes what that takes, from a path or a name of data.
        data: the default of these; None if there is nothing to choose.
        source: what the data are, for the card.
        licence: of the data.
    """

    made_for: str
    method: str
    arrays: Callable[[str], Mapping[str, Any]]
    data: str | None
    source: str
    licence: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one, measure it, and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", help="cifar10 or an .npz of photographs; synthetic or an .npz of FSDD; see the code")
    parser.add_argument("--steps", type=positive(int), default=STEPS, help=f"of training (default {STEPS})")
    parser.add_argument("--out", type=Path, default=Path("trained"), help="where its folder will be")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.name]
    try:
        found = Arrays.of(**_roles(recipe.arrays(options.data or recipe.data or "")))
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    viewmaker, measured = train(found, recipe.method, options.steps)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([Path(word).name if "/" in word else word for word in words])
    about = {
        "made for": recipe.made_for,
        "data": recipe.source,
        "licence of the data": recipe.licence,
        "trained": f"as `{recipe.method}` of `viewaug compare`, {options.steps} steps of {BATCH}",
        **measured,
        "command": f"`python -m viewaug.examples.trained {command}`",
    }
    places = found.where(VALIDATION)[:_LOOK]
    notes = f'`viewaug.load("{options.name}")` loads it from the package.' if options.name in shipped() else ""
    folder = options.out / options.name
    hub.save_pretrained(viewmaker, folder, about=about, examples=found.take(places), notes=notes)
    print((folder / hub.CARD).read_text(encoding="utf-8"))


def train(arrays: Arrays, name: str, steps: int) -> tuple[Viewmaker, dict[str, str]]:
    """Return a viewmaker that was trained as a method says, and what was measured of it, for its card."""
    kind, settings = kind_of(arrays), Settings(batch=BATCH)

    def trained(method: str, steps: int) -> Trained:
        parsed = parse(method, kind)
        strength = next(iter(parsed.strengths(kind)), None)
        return pretrain(Cell(parsed, strength, "residual", 0, steps, True), arrays, settings, "cpu")

    viewmaker = _viewmaker(trained(name, steps))
    twin = name.replace("learned", "random") + f"@{viewmaker.budget or viewmaker.strength:.4g}"
    opponent = trained(twin, steps // 2)
    both = {"views": viewmaker, "twin": _viewmaker(opponent)}
    apart = {who: _apart(opponent.encoder, made, arrays) for who, made in both.items()}
    measured = {
        "strength": f"two views are {apart['views']:.3f} apart for an encoder that was pretrained with the random "
        f"twin, and two of the twin {apart['twin']:.3f} (mean squared distance of normalised features)"
    }
    scorer = probe(trained("supervised", steps // 2).encoder.eval(), arrays, settings, (VALIDATION,), "cpu")[1]
    assert scorer is not None  # there are labels
    places = arrays.where(VALIDATION)
    for task, label in arrays.labels.items():
        known = places[label[places] != UNKNOWN]
        known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))][:_LOOK]
        data = Data(arrays.take(known), {task: label[known]})
        chance = {task: 1 / (int(label.max()) + 1)}
        lost = []
        for made in (lambda x, generator: x, *map(_views, both.values())):
            scores = score(made, {"scorer": scorer}, data, _VIEWS, value_range=arrays.value_range)
            lost.append(100 * summarise(scores, chance)["scorer"]["tasks"][task]["destruction"])
        measured[f"destroys {task}"] = (
            f"in {lost[1]:.1f} % of views, by an independent scorer, and the random twin in {lost[2]:.1f} %; "
            f"not found in {lost[0]:.1f} % of the inputs themselves"
        )
    return viewmaker, measured


def _viewmaker(trained: Trained) -> Viewmaker:
    assert trained.views.viewmaker is not None  # there is one in learned and in random views
    return trained.views.viewmaker


def _views(viewmaker: Viewmaker) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda x, generator: viewmaker(x, viewmaker.draw_noise(x, generator))


def _apart(encoder: torch.nn.Module, viewmaker: Viewmaker, arrays: Arrays) -> float:
    x = arrays.take(arrays.where(VALIDATION)[:_LOOK])
    make, generator = _views(viewmaker), torch.Generator().manual_seed(0)
    with torch.no_grad():
        return alignment(*(encoder.eval()(make(x, generator)) for _ in range(2)))


def _roles(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Divide arrays into those with a role and labels."""
    roles = {name: arrays[name] for name in ROLES if name in arrays}
    return roles | {"labels": {name: array for name, array in arrays.items() if name not in (*roles, "mask")}}


def photographs(source: str, train: int = 8192, test: int = 2000) -> dict[str, Any]:
    """Return photographs of `source`, as of :func:`backgrounds`, without anything on them."""
    both = [backgrounds(source, train=part, count=count) for part, count in ((True, train), (False, test))]
    x, label = (torch.cat(parts) for parts in zip(*both, strict=True))
    split = torch.arange(len(x)) >= len(both[0].x)
    return {"x": x.float() / 255, "photo": label, "split": split, "value_range": torch.tensor([0.0, 1.0])}


def log_mel(source: str, length: int = LENGTH) -> dict[str, Any]:
    """Return log-mel spectrograms of the middles of utterances of `source`, as of :func:`speech`."""
    both = [speech(source, train=train, sample_rate=RATE) for train in (True, False)]
    waveforms = [torch.stack([_middle(clip, length) for clip in part.clips])[:, None] for part in both]
    labels = {task: torch.cat([part.labels[task] for part in both]) for task in both[0].labels}
    x = spectrograms(*waveforms)
    return {"x": x, **labels, "split": torch.arange(len(x)) >= len(waveforms[0])}


def spectrograms(train: Tensor, test: Tensor) -> Tensor:
    """Return log-mel spectrograms of waveforms, standardised by the training part."""
    front = LogMel(RATE, n_mels=40, n_fft=512, hop_length=128, floor=-80.0).fit([train])
    return torch.cat([front(part) for part in torch.cat([train, test]).split(256)])


def _middle(clip: Tensor, length: int) -> Tensor:
    """Cut, or pad with silence."""
    start = max(0, (len(clip) - length) // 2)
    clip = clip[start : start + length]
    left = (length - len(clip)) // 2
    return torch.nn.functional.pad(clip, (left, length - len(clip) - left))


RECIPES = {
    "photographs": Recipe(
        "natural photographs",
        "learned",
        photographs,
        "cifar10",
        "8,192 images of CIFAR-10 (Krizhevsky, 2009), JPEG-coded",
        "none stated; CIFAR-10 is taken from 80 Million Tiny Images, for research",
    ),
    "digits-on-photographs": Recipe(
        "photographs with something small on them",
        "learned:blend+additive",
        lambda _: demo.digits(),
        None,
        "crops of ten photographs of scikit-image and scikit-learn, with scikit-learn's handwritten digits pasted on",
        "of the photographs, as these packages state them (two are CC BY 2.0); of the digits, from UCI, CC BY 4.0",
    ),
    "log-mel": Recipe(
        "log-mel spectrograms of sounds",
        "learned:blend+additive",
        log_mel,
        "synthetic",
        "2,700 recordings of the Free Spoken Digit Dataset, 8 kHz, 40 mel bands",
        "CC BY-SA 4.0",
    ),
    "smartwatch": Recipe(
        "an accelerometer's and a gyroscope's axes at 50 Hz",
        "learned",
        lambda _: smartwatch(),
        None,
        "the smartwatch readings that seglearn ships (Burns et al., 2018): 7 exercises, 10 subjects",
        "BSD 3-Clause, as seglearn",
    ),
}

if __name__ == "__main__":
    main()
