"""Which views to take, and how certain that is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scores = Mapping[str, Sequence[float]]
SEEDS = 3  # below which there is no verdict
_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The best method's score less another's, with an interval, in points."""

    mean: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Verdict:
    """What a table says.

    Attributes:
        best: the method that is best on validation.
        differences: of its test scores and each other method's, by the other's name; none without a verdict.
        sentence: the verdict.
    """

    best: str | None
    differences: Mapping[str, Difference]
    sentence: str

    @property
    def equals(self) -> list[str]:
        """The methods that are not told apart from the best one."""
        return [name for name, difference in self.differences.items() if not difference.told_apart]


def interval(values: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by Student's t, for so many comparisons at once (Bonferroni).

    Examples:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.stats import t

    n, mean = len(values), statistics.mean(values)
    if n < 2:
        return -math.inf, math.inf
    half = float(t.ppf(1 - (1 - _LEVEL) / 2 / comparisons, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def with_interval(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean and half its 95 % interval, as text.

    Examples:
        >>> with_interval([1.0, 2.0, 3.0])
        '2.0 ± 2.5'
    """
    mean = statistics.mean(values)
    half = f" ± {interval(values)[1] - mean:.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{half}"


def judge(validation: Scores, test: Scores) -> Verdict:
    """Say which method to take: the best on validation, beside all that its test scores are not told apart from.

    Differences are paired by seed, and their intervals hold for all comparisons at once.

    Args:
        validation: one score of each seed for each method's name, in the order of the seeds.
        test: the same on the test part.

    Examples:
        >>> scores = {"none": [50.0, 51.0, 50.5], "mask": [60.0, 61.5, 60.5]}
        >>> judge(scores, scores).sentence
        'Take mask: 60.7 %, better than none, by 3 seeds.'
    """
    best = max(validation, key=lambda name: statistics.mean(validation[name]))
    seeds = min(map(len, test.values()))
    if seeds < SEEDS:
        return Verdict(best, {}, f"No verdict: it takes {SEEDS} seeds, and there {_be(seeds)}.")
    others = [name for name in test if name != best]
    differences = {}
    for name in others:
        paired = [mine - theirs for mine, theirs in zip(test[best], test[name], strict=False)]
        differences[name] = Difference(statistics.mean(paired), *interval(paired, max(1, len(others))))
    verdict = Verdict(best, differences, "")
    return Verdict(best, differences, _sentence(verdict, statistics.mean(test[best]), seeds))


def agree(verdicts: Mapping[str, Verdict]) -> str:
    """Say whether verdicts with several encoders are one."""
    takes = {encoder: {verdict.best, *verdict.equals} for encoder, verdict in verdicts.items() if verdict.differences}
    if len(takes) < len(verdicts) or not takes:
        return ""
    common = set.intersection(*takes.values())
    names = " and ".join(takes)
    if not common:
        return f"No views are among the best with both encoders, {names}: the verdict is an encoder's, not the data's."
    ordered = [name for verdict in verdicts.values() for name in (verdict.best, *verdict.equals) if name in common]
    taken = _list(list(dict.fromkeys(filter(None, ordered))))
    return f"Not told apart from the best with both encoders, {names}: {taken}."


def _sentence(verdict: Verdict, score: float, seeds: int) -> str:
    equal, best = verdict.equals, verdict.best
    worse = [name for name, found in verdict.differences.items() if found.low > 0]
    better = [name for name, found in verdict.differences.items() if found.high < 0]
    by = f"by {seeds} seeds"
    if not verdict.differences:
        return f"No choice: only {best} was compared, {score:.1f} %, {by}."
    if not worse and not better:
        return f"No choice: {best}, {score:.1f} %, is best on validation, but not told apart from {_list(equal)} {by}."
    text = f"Take {best}: {score:.1f} %"
    text += f", better than {_list(worse)}" if worse else ""
    text += f", not told apart from {_list(equal)}" if equal else ""
    text += f", and worse in the test than {_list(better)}" if better else ""
    return f"{text}, {by}."


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _be(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
