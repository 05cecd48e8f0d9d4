"""What an experiment on several tasks consists of; those on images and on audio fill it in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from viewaug.examples.multitask.methods import Method
from viewaug.examples.multitask.transfer import IMAGE_SETS, Waveforms

import viewaug
from viewaug.comparison.training import Training


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a result depends on, the cell aside; an experiment adds its own."""

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
    methods: ClassVar[Mapping[str, Method]]
    default_methods: ClassVar[Sequence[str]]
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

    @abstractmethod
    def data(self, group: str, method: Method, settings: Any, seed: int, *, train: bool) -> Any:
        """Return a data set of dictionaries with two ``views`` and labels, -1 where a label does not count."""

    @abstractmethod
    def encoder(self, group: str, settings: Any) -> tuple[nn.Sequential, int]:
        """Return a front end and a network of timm's, in a sequence, and its number of features."""

    @abstractmethod
    def augment(self, group: str, method: Method, settings: Any, budget: float) -> Callable[[Tensor], Tensor] | None:
        """Return what a batch goes through before a viewmaker, if any, and the encoder take it."""

    @abstractmethod
    def viewmaker(self, method: Method, budget: float) -> viewaug.Viewmaker:
        """Return a new viewmaker."""

    def transfers(self, settings: Any) -> Mapping[str, Waveforms | None]:
        """Return the data sets there are to transfer to, and what they are read as."""
        return dict.fromkeys(IMAGE_SETS)

    def as_seen(self, group: str, settings: Any, x: Tensor) -> Tensor:
        """Return inputs as figures show them and probes in files take them."""
        return x


def cell_name(group: str, method: str, seed: int) -> str:
    """Return the name of a cell's files."""
    return f"{group}-{method.replace(':', '=')}-{seed}"


def viewmaker_file(out: Path, cell: str) -> Path:
    """Return where a cell's viewmaker is."""
    return out / "viewmakers" / f"{cell}.safetensors"


def probe_file(out: Path, cell: str) -> Path:
    """Return where a cell's probes are."""
    return out / "probes" / f"{cell}.pt2"
