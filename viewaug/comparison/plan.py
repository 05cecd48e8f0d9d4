"""How long everything takes: the price of a step of each kind of views, and the steps that a time pays for."""

from collections.abc import Mapping
from dataclasses import dataclass

_FEWEST = 20  # steps of a cell that tell anything


@dataclass(frozen=True)
class Plan:
    """What a time pays for.

    Attributes:
        seconds: of training in each cell.
        trials: of each method, at most.
        seeds: of each method.
        prices: seconds of a step, by encoder and method.
        overhead: seconds of a cell besides, for its probes.
        cells: how many there are.
        notes: what there was no time for, in sentences.
    """

    seconds: float
    trials: int
    seeds: int
    prices: Mapping[str, Mapping[str, float]]
    overhead: float
    cells: int
    notes: tuple[str, ...] = ()

    def steps(self, encoder: str, method: str) -> int:
        """Return how many steps of a method the time of a cell pays for."""
        return max(1, round(self.seconds / self.prices[encoder][method]))

    def minutes(self, workers: int = 1) -> float:
        """Return how long all cells take."""
        return self.cells * (self.seconds + self.overhead) / workers / 60

    def table(self) -> str:
        """Return the prices and the steps, as text."""
        lines = [f"{'encoder':12}{'views':28}{'ms a step':>12}{'steps':>8}"]
        for encoder, prices in self.prices.items():
            for method, seconds in prices.items():
                lines.append(f"{encoder:12}{method:28}{1000 * seconds:12.1f}{self.steps(encoder, method):8}")
        return "\n".join(lines)


def make_plan(
    prices: Mapping[str, Mapping[str, float]],
    choices: Mapping[str, int],
    *,
    trials: int,
    seeds: int,
    overhead: float,
    seconds: float | None = None,
    steps: int | None = None,
    workers: int = 1,
) -> Plan:
    """Divide a time among cells so that all methods get as much of it.

    Where it is short there are no trials first, and fewer seeds then.

    Args:
        prices: seconds of a step, by encoder and method.
        choices: how many strengths there are to choose from, for each method.
        trials: of each method, at most.
        seeds: of each method.
        overhead: seconds of a cell besides training.
        seconds: for all cells together, of the clock.
        steps: instead of `seconds`, how many of the cheapest method each cell has.
        workers: processes that share the time.

    Examples:
        >>> plan = make_plan({"residual": {"none": 0.01, "mask": 0.02}}, {"mask": 3}, trials=2, seeds=2, overhead=0.5,
        ...     seconds=33)
        >>> plan.cells, plan.steps("residual", "none"), plan.steps("residual", "mask")
        (6, 500, 250)
    """
    each = [price for encoder in prices.values() for price in encoder.values()]

    def cells(trials: int, seeds: int) -> int:
        mine = sum(_trials(choices.get(name, 0), trials) + seeds for name in next(iter(prices.values())))
        return mine * len(prices)

    if seconds is None:
        return Plan((steps or 1) * min(each), trials, seeds, prices, overhead, cells(trials, seeds))
    notes = []
    least = _FEWEST * max(each)
    wanted = [(trials, seeds), *((1, fewer) for fewer in (seeds, 3, 2, 1) if fewer <= seeds)]
    for tried, sown in wanted:
        share = seconds * workers / cells(tried, sown) - overhead
        if share >= least:
            break
    else:
        share = max(share, min(each))
    if tried < trials:
        notes.append("There is no time for trials: strengths are at their defaults.")
    if sown < seeds:
        notes.append(f"There is time for {sown} of {seeds} seeds.")
    if share < least:
        notes.append(f"There is time for less than {_FEWEST} steps.")
    return Plan(share, tried, sown, prices, overhead, cells(tried, sown), tuple(notes))


def _trials(choices: int, trials: int) -> int:
    """Return the number of trials of a method; of a single strength there are none."""
    many = min(choices, trials)
    return many if many > 1 else 0
