"""Data sets of pairs, both views of which share what is drawn for them, or not."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

T = TypeVar("T")


class Pairs(Dataset[dict[str, Any]], ABC):
    """Inputs in pairs for contrastive learning, with something drawn for each: an overlay, a noise.

    What is drawn for input i is a function of the seed, the split and i, and where it is redrawn, of `epoch`.
    An item is a dictionary of ``views``, a list of two, labels, and its ``index``; a list of indices gives a batch of
    them at once.

    Args:
        train: whether for training.
        seed: of all that is drawn.
        redraw: draw anew in each epoch.
        shared: how likely both views have the same drawn, and not one of their own.

    Attributes:
        drawn: the name of what is drawn, for errors.
        epoch: which one this is; to be set before each.
    """

    drawn: ClassVar[str]

    def __init__(self, *, train: bool, seed: int, redraw: bool, shared: float) -> None:
        if not 0 <= shared <= 1:
            raise ValueError(f"Expected `shared_{self.drawn}_probability` to be between 0 and 1, but got {shared}.")
        self.train, self.seed, self.redraw, self.shared = train, seed, redraw, shared
        self.epoch = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.__getitems__([index])
        return {name: [v[0] for v in value] if name == "views" else value[0] for name, value in batch.items()}

    def to(self, device: torch.device) -> Self:
        """Keep what batches are made of on a device, if it can be."""
        return self

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch; a DataLoader asks for it at once if `collate_fn` leaves it as it is."""
        return {**self.batch(indices), "index": torch.as_tensor(indices)}

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the views and labels of some inputs."""

    def draw_pairs(self, indices: Sequence[int], draw: Callable[[np.random.Generator], T]) -> tuple[list[T], list[T]]:
        """Draw for the first views and for the second; one list twice if they share everything."""
        first = [draw(self.rng(i, 0)) for i in indices]
        if self.shared == 1:
            return first, first
        second = []
        for i, one in zip(indices, first, strict=True):
            rng = self.rng(i, 1, redraw=True)  # else the network would learn the pairs
            second.append(one if rng.random() < self.shared else draw(rng))
        return first, second

    def rng(self, index: int, what: int, *, redraw: bool = False) -> np.random.Generator:
        """Return the source of one of the draws for an input, which can be another each epoch whatever the option."""
        epoch = self.epoch if redraw or self.redraw else 0
        return np.random.default_rng([self.seed, int(self.train), epoch, int(index), what])


class Part(Dataset[dict[str, Any]]):
    """Some of a data set of pairs, whose draws stay as they are."""

    def __init__(self, data: Pairs, indices: Sequence[int]) -> None:
        self.data, self.indices, self.seed = data, indices, data.seed

    def to(self, device: torch.device) -> Self:
        """Keep the whole on a device."""
        self.data.to(device)
        return self

    @property
    def epoch(self) -> int:
        """Which one this is, as of the whole."""
        return self.data.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.data.epoch = epoch

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch."""
        return {**self.data.__getitems__([self.indices[i] for i in indices]), "index": torch.as_tensor(indices)}
