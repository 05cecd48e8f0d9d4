"""What an experiment on several tasks consists of; those on images and on audio fill it in."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from viewaug.examples.multitask.methods import Variant, modern
from viewaug.examples.multitask.transfer import IMAGE_SETS, Waveforms
from viewaug.examples.multitask.turns import original_viewmaker

from viewaug.comparison.cells import file_name
from viewaug.comparison.training import Training
from viewaug.comparison.views import REFERENCES, Kind, Method, Views, parse


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a result depends on, the cell aside; an experiment adds its own."""

    objective: str = "simclr"  # or "instance"; of all methods but those that learn in turns
    curve: int = 2  # epochs between two probes while training
    neighbours: int = 0  # of a nearest-neighbour classifier beside those; 0 for none
    prepool: int = 0  # training inputs of probes of features before they are pooled; 0 for no such probes
    views_in_probe: bool = False  # probe training inputs as views, too, as the paper does
    transfer: Sequence[str] = ()  # data sets that the encoder is probed on, too
    transfer_root: str = "."  # their folder
    validation: bool = False  # probes score every tenth training input, held out, instead of the test split
    training: Training = field(default_factory=Training)


class Experiment(ABC):
    """Data with several labels, and the ways to make views of them.

    Its class attributes are what the report and the command line need.
    """

    name: ClassVar[str]  # of its results
    title: ClassVar[str]
    group: ClassVar[str]  # what the data sets are called: "overlay", ...
    groups: ClassVar[Sequence[str]]
    tasks: ClassVar[Mapping[str, str]]  # the labels in batches, and what to call them
    methods: ClassVar[Sequence[str]]  # that are run unless the user says, in the order of tables
    own: ClassVar[dict[str, str]]  # paths of functions by hand, by their names
    variants: ClassVar[Mapping[str, tuple[str, Variant]]]  # the views, and what there is beside them, by names
    scorers: ClassVar[tuple[str, str]]  # whose probes score learned views, and those by hand
    drawn: ClassVar[Sequence[str]]  # the methods in figures of views
    value_range: ClassVar[tuple[float, float] | None]
    packages: ClassVar[Sequence[str]]  # whose versions are kept
    paper: ClassVar[Mapping[tuple[str, str], Mapping[str, float]]]
    departures: ClassVar[str]

    @abstractmethod
    def presets(self) -> Mapping[str, Any]:
        """Return the settings of each preset."""

    @abstractmethod
    def check(self, settings: Any) -> None:
        """Raise an error if the sources of data in the settings cannot be read."""

    def parse(self, name: str) -> tuple[Method, Variant]:
        """Return the views of a method, and what there is beside them.

        Args:
            name: as of :func:`viewaug.comparison.views.parse`, or in `variants`, or of an older version. A budget
                may follow, as in ``noise@0.1`` and ``learned:warp@0.1``, or ``@steered`` for a controller.

        Raises:
            ValueError: if there is no such method, or not for pairs of views.
        """
        plain = modern(name).removesuffix("@steered")
        base = re.split("[:@]", plain)[0]
        views, variant = self.variants.get(base, (base, Variant()))
        variant = replace(variant, steered=plain != modern(name))
        method = parse(views + plain.removeprefix(base), self.kind(self.presets()["quick"], variant), self.own)
        if method.maker in ("hard", *REFERENCES):
            raise ValueError(f"Expected a method that makes a pair of views, but got {name!r}.")
        if variant.in_turns and (method.kinds or variant.steered):
            raise ValueError(f"Expected the original's own views after {base}, but got {name!r}.")
        if variant.steered and method.maker not in ("random", "learned"):
            raise ValueError(f"Expected random or learned views before @steered, but got {name!r}.")
        return method, variant

    @abstractmethod
    def kind(self, settings: Any, variant: Variant) -> Kind:
        """Return what views are made of."""

    @abstractmethod
    def data(self, group: str, variant: Variant, settings: Any, seed: int, *, train: bool) -> Any:
        """Return a data set of dictionaries with two ``views`` and labels, -1 where a label does not count."""

    @abstractmethod
    def encoder(self, group: str, settings: Any) -> tuple[nn.Sequential, int]:
        """Return a front end and a network of timm's, in a sequence, and its number of features."""

    def views(self, group: str, method: Method, variant: Variant, settings: Any) -> Views:
        """Build the views of a method, new, of a fixed budget."""
        kind, budget = self.kind(settings, variant), method.strength or settings.training.budget
        if variant.in_turns:
            return Views(viewmaker=original_viewmaker(kind.channels, budget))
        views = method.views(kind, method.strength, contrastive=False)
        if method.maker in ("random", "learned") and views.viewmaker and views.viewmaker.budget:
            views.viewmaker.budget = budget
        return replace(views, augment=self.augment(group, method, views, settings))

    def augment(self, group: str, method: Method, views: Views, settings: Any) -> Callable[[Tensor], Tensor] | None:
        """Return what a batch goes through before a viewmaker, if any, and the encoder take it."""
        return views.augment

    def transfers(self, settings: Any) -> Mapping[str, Waveforms | None]:
        """Return the data sets there are to transfer to, and what they are read as."""
        return dict.fromkeys(IMAGE_SETS)

    def as_seen(self, group: str, settings: Any, x: Tensor) -> Tensor:
        """Return inputs as figures show them and probes in files take them."""
        return x


def cell_name(group: str, method: str, seed: int) -> str:
    """Return the name of a cell's files."""
    return f"{group}-{file_name(method)}-{seed}"


def viewmaker_file(out: Path, cell: str) -> Path:
    """Return where a cell's viewmaker is."""
    return out / "viewmakers" / f"{cell}.safetensors"


def probe_file(out: Path, cell: str) -> Path:
    """Return where a cell's probes are."""
    return out / "probes" / f"{cell}.pt2"
