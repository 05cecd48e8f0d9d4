"""What a comparison found."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewaug import Viewmaker
from viewaug._markdown import markdown_table
from viewaug.comparison.arrays import Arrays
from viewaug.comparison.cells import kind_of
from viewaug.comparison.grid import read_json
from viewaug.comparison.plan import Plan
from viewaug.comparison.proxies import PROXIES
from viewaug.comparison.snippets import snippet
from viewaug.comparison.verdict import Verdict, agree, judge, with_interval
from viewaug.comparison.views import REFERENCES, Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        cells: the results of all trials and runs.
        settings: what they depend on.
        plan: the prices, the steps and the time.
        notes: what was taken for what, and what there was no time for, in sentences.
        methods: by name.
        arrays: the data; None if it was read from a file.
        viewmakers: of the first seed, by encoder and method.
    """

    cells: list[dict[str, Any]]
    settings: dict[str, Any]
    plan: Plan
    notes: tuple[str, ...]
    methods: Mapping[str, Method]
    arrays: Arrays | None
    viewmakers: Mapping[tuple[str, str], Viewmaker]

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold of it, and :meth:`read` reads."""
        methods = {name: asdict(method) for name, method in self.methods.items()}
        found = {"settings": self.settings, "notes": self.notes, "plan": asdict(self.plan), "methods": methods}
        return found | {"best": self.best, "verdict": self.verdict, "cells": self.cells}

    @classmethod
    def read(cls, file: Path) -> "Comparison":
        """Read a ``results.json``, for its table and its verdict.

        Raises:
            ValueError: if it is not such a file.
        """
        found = read_json(file)
        try:
            methods = {name: _method(method) for name, method in found["methods"].items()}
            plan = Plan(**found["plan"] | {"notes": tuple(found["plan"]["notes"])})
            comparison = cls(found["cells"], found["settings"], plan, tuple(found["notes"]), methods, None, {})
            comparison.verdict  # noqa: B018 - which needs all of it
        except Exception as error:  # of what was changed by hand
            raise ValueError(f"{file} holds no comparison: {error!r}") from error
        return comparison

    @property
    def encoders(self) -> list[str]:
        """The encoders, the first one first."""
        return list(self.settings["encoders"])

    @property
    def labels(self) -> list[str]:
        """The names of the labels."""
        return list(self.settings["labels"])

    def runs(self, encoder: str, method: str) -> list[dict[str, Any]]:
        """Return the runs of a method, by seed, without trials."""
        mine = [cell for cell in self.cells if (cell["encoder"], cell["method"]) == (encoder, method)]
        return sorted((cell for cell in mine if not cell["trial"]), key=lambda cell: cell["seed"])

    def scores(self, encoder: str, part: str) -> dict[str, list[float]]:
        """Return the mean accuracy over labels of each run, ``"validation"`` or ``"test"``, in %, by method.

        Those that are shown for reference are left out.
        """
        chosen = [name for name, method in self.methods.items() if method.maker not in REFERENCES]
        return {name: [statistics.mean(run[part].values()) for run in self.runs(encoder, name)] for name in chosen}

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What to take, by encoder."""
        if not self.labels or not self.cells:
            return {}
        parts = ("validation", "test")
        return {encoder: judge(*(self.scores(encoder, part) for part in parts)) for encoder in self.encoders}

    @property
    def best(self) -> str | None:
        """The method that is best on validation with the first encoder; None without labels."""
        verdicts = self.verdicts
        return verdicts[self.encoders[0]].best if verdicts else None

    @property
    def verdict(self) -> str:
        """Which views to take, and how certain that is."""
        if not self.cells:
            return "No verdict: nothing was run."
        if not self.labels:
            return "No verdict: there are no labels, and what can be known without any has chosen wrongly before."
        found = self.verdicts
        if len(found) == 1:
            return next(iter(found.values())).sentence
        lines = [f"With the encoder {encoder}: {verdict.sentence}" for encoder, verdict in found.items()]
        return "\n".join(filter(None, [*lines, agree(found)]))

    @property
    def table(self) -> str:
        """Accuracy of linear probes in %, with 95 % intervals over seeds; a table in Markdown for each encoder."""
        return "\n\n".join(self._table(encoder) for encoder in self.encoders)

    def _table(self, encoder: str) -> str:
        verdict = self.verdicts.get(encoder)
        head = ["views", "strength", *self.labels, *(["mean"] if len(self.labels) > 1 else [])]
        head += ["behind the best"] if verdict and verdict.differences else []
        head += [] if self.labels else list(PROXIES)
        rows = []
        for name in self.methods:
            runs = self.runs(encoder, name)
            if not runs:
                continue
            row = [name, "" if runs[0]["strength"] is None else f"{runs[0]['strength']:g}"]
            row += [with_interval([run["test"][label] for run in runs]) for label in self.labels]
            if len(self.labels) > 1:
                row.append(with_interval([statistics.mean(run["test"].values()) for run in runs]))
            if verdict and verdict.differences:
                found = verdict.differences.get(name)
                row.append("" if found is None else f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f})")
            if not self.labels:
                row += [with_interval([run["proxies"].get(name, math.nan) for run in runs], 2) for name in PROXIES]
            rows.append(row)
        title = f"Encoder {encoder}:\n\n" if len(self.encoders) > 1 else ""
        return title + markdown_table(head, rows)

    def proxies(self) -> str:
        """Say how well each proxy would have chosen, where labels exist."""
        if not self.labels or not self.cells:
            return ""
        encoder = self.encoders[0]
        test = {name: statistics.mean(scores) for name, scores in self.scores(encoder, "test").items() if scores}
        rows = []
        for proxy, sign in PROXIES.items():
            mean = {
                name: statistics.mean(run["proxies"][proxy] for run in self.runs(encoder, name))
                for name in test
                if all(proxy in run["proxies"] for run in self.runs(encoder, name))
            }
            if mean:
                chosen = max(mean, key=lambda name: sign * mean[name])
                rows.append([proxy, chosen, f"{max(test.values()) - test[chosen]:.1f}"])
        return markdown_table(["proxy", "would have chosen", "points below the best"], rows, names=2) if rows else ""

    @property
    def viewmaker(self) -> Viewmaker | None:
        """The viewmaker of the best method, if it has one: trained, where it learns."""
        return None if self.best is None else self.viewmakers.get((self.encoders[0], self.best))

    def snippet(self, host: str, method: str | None = None, place: str = "mine.npz") -> str:
        """Return code that takes the views of a method, by default the best, into a host's training loop.

        Args:
            host: ``"plain"``, ``"lightly"``, ``"lightning"`` or ``"solo-learn"``.
            method: whose views.
            place: of the data.
        """
        if self.arrays is None:
            raise ValueError("Expected a comparison that was just run, but this was read from a file.")
        method = method or self.best or next(iter(self.methods))
        encoder = self.encoders[0]
        return snippet(
            host,
            self.methods[method],
            kind_of(self.arrays),
            self.viewmakers.get((encoder, method)),
            strength=self.runs(encoder, method)[0]["strength"],
            settings=self.settings | {"encoder": encoder},
            place=place,
        )

    def plot(self) -> "Figure":
        """Draw accuracy against time and against strength."""
        from viewaug.comparison.figures import accuracy_figure

        return accuracy_figure(self)


def _method(found: dict[str, Any]) -> Method:
    under = found.get("under") and _method(found["under"])
    return Method(**found | {"kinds": tuple(found["kinds"]), "under": under})
