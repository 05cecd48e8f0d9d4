"""The views that are compared: each method is one line."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from viewaug._imports import import_function
from viewaug.checkpoints import load
from viewaug.comparison.expert import EXPERTS, default_expert
from viewaug.viewmaker import Units, Viewmaker

#: Perturbations that go by one name; those that bound themselves have no budget.
FAMILIES: dict[str, Any] = {
    "mix": {"name": "mix", "budget": None},
    "softmix": {"name": "mix", "edge": (0.05, 2.0), "budget": None},  # an edge drawn from hard to nearly uniform
    "mixup": {"name": "mix", "edge": None, "budget": None},
    "mask": {"name": "mask", "budget": None},
    "channel-mask": {"name": "mask", "channels": True, "grain": 1.0, "budget": None},
    "stripes": {"name": "mask", "grain": (1.0, 4), "budget": None},
    "crop": {"name": "crop", "budget": None},
    "channels": {"name": "channels", "budget": None},
    # Learned mixing within the common budget.
    "blend": {"name": "mix", "edge": 0.5},
}

#: What a method's name stands for, if for another one.
SHORT = {
    "noise": "random:additive",
    "mask": "random:mask",
    "channel-mask": "random:channel-mask",
    "mixup": "random:mixup",
    "region": "random:mix",
    "crop": "random:crop",
}
#: Views by a viewmaker that is trained already, whose name or file follows: as it is, or to go on learning.
TRAINED = ("frozen", "warm")
# What is below, and a strength, around a path, in which slashes and @ may be.
_TRAINED_NAME = re.compile(rf"(?:(.+)/)?((?:{'|'.join(TRAINED)}):.+?)(?:@([\d.e-]+))?")
MAKERS = ("none", "random", "learned", "expert", "hard", *TRAINED, "untrained", "supervised")
#: What is shown beside the others, and never chosen.
REFERENCES = ("untrained", "supervised")

# What trials choose from, the default first: budgets in standard deviations, shares of the range of options, and the
# difficulty that a controller holds.
_BUDGETS = (0.2, 0.1, 0.4)
_STRENGTHS = (1.0, 0.5, 0.25)
_DIFFICULTIES = (0.1, 0.2, 0.05)
_HARD = 4  # views, of which the hardest pair is taken
_CHOICE = {"one_of": ["mask", "mix", "crop"]}


class Kind(NamedTuple):
    """What views are made of."""

    channels: int
    size: tuple[int, ...]
    value_range: tuple[float, float] | None
    mean: Sequence[float]
    std: Sequence[float]
    units: Units = "std"  # of budgets

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return len(self.size)


@dataclass(frozen=True)
class Views:
    """How views are made: by hand, then by a viewmaker, if there are such.

    Attributes:
        augment: makes a view by hand of a batch.
        viewmaker: makes a view of that.
        count: how many views of a sample; of more than two the hardest pair is taken.
        difficulty: that a controller holds.
    """

    augment: Callable[[Tensor], Tensor] | None = None
    viewmaker: Viewmaker | None = None
    count: int = 2
    difficulty: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return a view of a batch."""
        x = x if self.augment is None else self.augment(x)
        return x if self.viewmaker is None else self.viewmaker(x)


@dataclass(frozen=True)
class Method:
    """A way to make views, by its name.

    Attributes:
        name: as it was given.
        maker: one of `MAKERS`, or of the user's functions.
        kinds: the families, the expert, or the trained viewmaker.
        strength: a fixed one; None to choose by trials.
        under: augmentations by hand, on top of which these views are made.
    """

    name: str
    maker: str
    kinds: tuple[str, ...] = ()
    strength: float | None = None
    under: "Method | None" = None

    @property
    def learns(self) -> bool:
        """Whether there is something to learn."""
        return self.maker in ("learned", "warm")

    def strengths(self, kind: Kind, contrastive: bool = True) -> tuple[float, ...]:
        """Return what trials choose from; nothing if there is no choice."""
        if self.strength is not None:
            return (self.strength,)
        if self.maker in ("random", "learned", *TRAINED):
            viewmaker = self.viewmaker(kind)
            if viewmaker.budget is None:
                return _STRENGTHS
            if self.learns and contrastive:
                return _DIFFICULTIES
            return tuple(float(f"{viewmaker.budget * budget / _BUDGETS[0]:.3g}") for budget in _BUDGETS)
        if self.maker == "hard" and self.kinds:
            return Method(self.name, "random", self.kinds).strengths(kind)
        if self.maker == "hard" and not default_expert(kind):
            return _STRENGTHS
        swept = self.maker in ("hard", "expert") and EXPERTS[self.expert(kind)].swept
        return (1.0, 0.5, 1.5) if swept else ()

    def views(self, kind: Kind, strength: float | None, contrastive: bool = True) -> Views:
        """Build them, new."""
        found = self._views(kind, strength, contrastive)
        return found if self.under is None else replace(found, augment=self.under.augment(kind))

    def augment(self, kind: Kind) -> Callable[[Tensor], Tensor] | None:
        """Return what makes a view by hand, if anything does."""
        return self._views(kind, self.strength).augment

    def _views(self, kind: Kind, strength: float | None, contrastive: bool = True) -> Views:
        s = 1.0 if strength is None else strength
        match self.maker:
            case "none" | "untrained" | "supervised":
                return Views()
            case "expert":
                return Views(EXPERTS[self.expert(kind)].build(kind, s))
            case "hard" if not self.kinds and default_expert(kind):
                return Views(EXPERTS[self.expert(kind)].build(kind, s), count=_HARD)
            case "hard":
                return Views(viewmaker=self.viewmaker(kind, s), count=_HARD)
            case "random" | "frozen":
                return Views(viewmaker=self.viewmaker(kind, strength))
            case "learned" | "warm":
                steered = contrastive and self.viewmaker(kind).budget is not None
                return Views(
                    viewmaker=self.viewmaker(kind, None if steered else strength),
                    difficulty=(strength or _DIFFICULTIES[0]) if steered else None,
                )
        return Views(import_function(self.kinds[0]))

    def viewmaker(self, kind: Kind, strength: float | None = None) -> Viewmaker:
        """Build or load the viewmaker, of a budget or a strength."""
        viewmaker = load_for(self.kinds[0], kind) if self.maker in TRAINED else self._new(kind)
        if strength is not None:
            if viewmaker.budget is None:
                viewmaker.strength = strength
            else:
                viewmaker.budget = strength
        return viewmaker

    def _new(self, kind: Kind) -> Viewmaker:
        named = family(self.kinds)
        return Viewmaker(
            kind.channels,
            dims=kind.dims,
            budget=_BUDGETS[0],
            units=kind.units,
            value_range=kind.value_range,
            generator="fast" if self.learns else "random",
            perturbation=named if len(named) > 1 else named[0] if named else self._default(),
        )

    def expert(self, kind: Kind) -> str:
        """Return the name of the augmentations by hand."""
        found = self.kinds[0] if self.kinds and self.maker == "expert" else default_expert(kind)
        if found is None:
            raise ValueError(f"Expected a kind of data that `expert` is known for, but got {kind.dims} dims.")
        return found

    def _default(self) -> Any:
        return "additive" if self.maker != "hard" else {**_CHOICE, "budget": None}


def family(names: Sequence[str]) -> list[Any]:
    """Return the perturbations of some names, for :class:`viewaug.Viewmaker`.

    Examples:
        >>> family(["mix", "additive"])
        [{'name': 'mix', 'budget': None}, 'additive']
    """
    return [FAMILIES.get(name, name) for name in names]


def load_for(place: str, kind: Kind) -> Viewmaker:
    """Load a trained viewmaker for data of another value range, if they are of its kind otherwise.

    Args:
        place: as of :func:`viewaug.load`.
        kind: of the data.

    Raises:
        FileNotFoundError: if there is none; the error lists those that come with the package.
        ValueError: if it is for other data.
    """
    viewmaker = load(place)
    mine, theirs = (viewmaker.channels, viewmaker.dims), (kind.channels, kind.dims)
    if mine != theirs:
        raise ValueError(
            f"Expected a viewmaker for {theirs[0]} channels and {theirs[1]} spatial dimensions, "
            f"but {place} is for {mine[0]} and {mine[1]}."
        )
    if viewmaker.value_range != kind.value_range:
        if None in (viewmaker.value_range, kind.value_range) or viewmaker.units != "std":
            raise ValueError(
                f"Expected a viewmaker for the value range {kind.value_range}, "
                f"but {place} is for {viewmaker.value_range}, in the units {viewmaker.units!r}."
            )
        viewmaker.value_range = kind.value_range
    return viewmaker


def parse(name: str, kind: Kind, own: dict[str, str] | None = None) -> Method:
    """Return a method by its name.

    Args:
        name: ``"none"``; ``"random"``, ``"learned"``, ``"hard"`` and ``"expert"``, of which kind behind a colon, as in
            ``"learned:mask"`` and ``"random:mix+additive"``; for reference ``"untrained"``, and ``"supervised"`` by all
            labels of clean inputs; what stands in `SHORT`; or a name in `own`. A strength may follow, as in
            ``"noise@0.1"``, for which there are no trials then. Views by a viewmaker can be made on top of some by
            hand: ``"expert/learned"``. ``"frozen:NAME"`` and ``"warm:NAME"`` are views of a trained viewmaker, of the
            package or a file, as it is or as where to begin learning.
        kind: what the views are of.
        own: paths of functions, ``"module:function"``, by their names.

    Raises:
        ValueError: if there is no such method, or not for this kind.

    Examples:
        >>> kind = Kind(3, (32, 32), (0.0, 1.0), [0.5] * 3, [0.2] * 3)
        >>> method = parse("mask@0.5", kind)
        >>> method.maker, method.kinds, method.strength
        ('random', ('mask',), 0.5)
    """
    own = own or {}
    if found := _TRAINED_NAME.fullmatch(name):
        below, rest, strength = found.groups(default="")
    else:
        below, _, rest = name.rpartition("/")
        rest, _, strength = rest.partition("@")
    if below:
        under, method = parse(below, kind, own), parse(name.removeprefix(f"{below}/"), kind, own)
        if under.augment(kind) is None or method.maker not in ("random", "learned", *TRAINED):
            raise ValueError(f"Expected views by hand, a slash, and random or learned ones, but got {name!r}.")
        return replace(method, name=name, under=under)
    if rest in own:
        if strength:
            raise ValueError(f"Expected no strength for {rest!r}, but got {name!r}.")
        import_function(own[rest])
        return Method(name, rest, (own[rest],))
    maker, _, kinds = SHORT.get(rest, rest).partition(":")
    if maker not in MAKERS or (kinds and maker in ("none", *REFERENCES)):
        known = ", ".join(dict.fromkeys([*MAKERS, *SHORT, *own]))
        raise ValueError(f"Expected a method of {known}, but got {name!r}.")
    parts = [kinds] if maker in TRAINED else kinds.split("+")
    method = Method(name, maker, tuple(parts) if kinds else (), _number(name, strength))
    if maker in TRAINED and not kinds:
        raise ValueError(f"Expected the name or the file of a viewmaker, as in {maker}:photographs, but got {name!r}.")
    if maker == "expert" and kinds and kinds not in EXPERTS:
        raise ValueError(f"Expected an expert of {', '.join(EXPERTS)}, but got {name!r}.")
    try:
        choices = replace(method, strength=None).strengths(kind)
        method.views(kind, method.strength or (choices[0] if choices else None))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if strength and not choices:
        raise ValueError(f"Expected no strength for {rest!r}, but got {name!r}.")
    return method


def default_methods(kind: Kind) -> list[str]:
    """Return what is compared unless the user says."""
    names = ["none", "noise", "mask", "region", "mixup", "crop"]
    if kind.channels > 1 and not (kind.dims == 2 and kind.channels == 3):
        names.append("channel-mask")
    if default_expert(kind):
        names.append("expert")
    return [*names, "learned", "learned:mask", "learned:blend+additive"]


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"Expected a positive strength after the @, but got {name!r}.")
    return value
