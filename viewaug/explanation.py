"""What a viewmaker has learned: what its views do, in units, beside its random twin's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from viewaug._checks import check_count
from viewaug._markdown import markdown_table
from viewaug._noise import generator_at
from viewaug.adversary import check_values
from viewaug.budget import distortion, widen
from viewaug.masks import standardise
from viewaug.originals import OriginalViewmaker
from viewaug.perturbations import Compound, OneOf, Perturbation, Raw, measure
from viewaug.viewmaker import Viewmaker, check_viewmaker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH = 32  # inputs at a time
# Distance of two distributions from which a magnitude is spoken of, and the factor of Kolmogorov and Smirnov's critical
# value at 1 %, which counts where there are few views.
_APART, _CRITICAL = 0.1, 1.63
_SAID = 8  # magnitudes that are spoken of, at most
VIEW = "view"  # the part that is what comes out, within the budget


class Summary(NamedTuple):
    """Of the distribution of a magnitude."""

    mean: float
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Explanation:
    """What a viewmaker's views do to some inputs, and its random twin's to the same.

    Attributes:
        viewmaker: what is explained.
        x: the inputs, ``(N, C, *spatial)``.
        learned: the magnitudes of its views, ``(N, V)``, by part, a perturbation or what comes out (`VIEW`), and name,
            which ends in the unit: ``"affine: rotation [°]"``.
        random: those of the random twin's.
        place: the mean size of the change at each place, ``(1, *spatial)``, of its views and of the twin's.
        seed: of the views.
    """

    viewmaker: Viewmaker
    x: Tensor
    learned: dict[str, Tensor]
    random: dict[str, Tensor]
    place: tuple[Tensor, Tensor]
    seed: int

    @cached_property
    def apart(self) -> dict[str, float]:
        """How far each magnitude's distribution is from the random twin's, 0 to 1, the farthest first."""
        found = {name: apart(values, self.random[name]) for name, values in self.learned.items()}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    @property
    def departed(self) -> list[str]:
        """The magnitudes that are worth a word: of perturbations, then of what comes out, the farthest apart first."""
        many = next(iter(self.learned.values())).numel()
        least = max(_APART, _CRITICAL * (2 / many) ** 0.5)
        found = [name for name, distance in self.apart.items() if distance >= least]
        return sorted(found, key=lambda name: name.startswith(f"{VIEW}: "))

    @property
    def table(self) -> str:
        """All magnitudes, as a table in Markdown."""
        rows = []
        for name, values in self.learned.items():
            share = input_share(values)
            rows.append(
                [
                    name,
                    _text(values),
                    _text(self.random[name]),
                    f"{self.apart[name]:.2f}",
                    "" if share is None else f"{100 * share:.0f} %",
                ]
            )
        head = ["magnitude", "learned: mean (5 to 95 %)", "random twin", "apart", "by the input"]
        return markdown_table(head, rows)

    @property
    def words(self) -> list[str]:
        """A sentence on each magnitude that departs from the random twin's."""
        sentences = []
        for name in self.departed[:_SAID]:
            share = input_share(self.learned[name])
            by = "" if share is None else f"; {100 * share:.0f} % of its variance is the input's, the rest the noise's"
            sentences.append(f"{name}: {_text(self.learned[name])} instead of {_text(self.random[name])}{by}.")
        return sentences or ["No magnitude departs from the random twin's."]

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        magnitudes = {
            name: {
                "learned": summarise(values)._asdict(),
                "random": summarise(self.random[name])._asdict(),
                "apart": self.apart[name],
                "input_share": input_share(values),
            }
            for name, values in self.learned.items()
        }
        inputs, views = next(iter(self.learned.values())).shape
        return {"inputs": inputs, "views": views, "seed": self.seed, "magnitudes": magnitudes}

    def plot(self) -> "Figure":
        """Draw the distribution of each magnitude beside the random twin's, those that are most apart first."""
        from viewaug.plots import magnitude_histograms

        return magnitude_histograms({name: (self.learned[name], self.random[name]) for name in self.apart})

    def plot_place(self) -> "Figure":
        """Draw the mean size of the change at each place, of the viewmaker's views and of the random twin's."""
        from matplotlib.figure import Figure

        from viewaug.plots import draw_signal

        figure = Figure(figsize=(5, 2.5), layout="constrained")
        scale = torch.cat(self.place, -1)
        for ax, place, name in zip(figure.subplots(1, 2), self.place, ("learned", "random twin"), strict=True):
            draw_signal(ax, place, scale, None)
            if self.viewmaker.dims == 2 and self.viewmaker.value_range is not None:
                ax.invert_yaxis()  # images are drawn from above, other maps from below
            ax.set_title(name, fontsize=9)
        return figure

    def examples(self, name: str, count: int = 4) -> "Figure":
        """Draw views at both ends of a magnitude, each of another input, with its value above.

        Args:
            name: of the magnitude, as in `learned`.
            count: views at each end.

        Raises:
            ValueError: if there is no such magnitude.
        """
        from viewaug.plots import view_grid

        if name not in self.learned:
            raise ValueError(f"Expected `name` to be one of {', '.join(self.learned)}, but got {name!r}.")
        values = self.learned[name]
        count = min(count, max(1, len(values) // 2))
        low, lowest = values.min(1)
        high, highest = values.max(1)
        few, many = low.argsort()[:count], high.argsort()[-count:]
        picked = [*((i, int(lowest[i])) for i in few.tolist()), *((i, int(highest[i])) for i in many.tolist())]
        views = torch.stack([self._view(i, v) for i, v in picked])
        figure = view_grid(self.x[[i for i, _ in picked]], [views], value_range=self.viewmaker.value_range, amplify=1.0)
        for ax, (i, v) in zip(figure.axes, picked, strict=False):
            ax.set_title(f"{values[i, v]:.3g}", fontsize=8)
        figure.suptitle(name, fontsize=9)
        return figure

    def _view(self, index: int, number: int) -> Tensor:
        """Make the view of an input once more."""
        parts, batch = _split(self.x), 0
        while index >= len(parts[batch]):
            index, batch = index - len(parts[batch]), batch + 1
        noise = _noise(self.viewmaker, parts[batch], self.seed, batch, number)
        return observe(self.viewmaker, parts[batch], noise).view[index]


class Observed(NamedTuple):
    """A batch of views, what the generator made, and what the perturbation got of it."""

    view: Tensor
    made: Raw
    raw: Raw


def explain(viewmaker: Viewmaker, x: Tensor, *, views: int = 16, seed: int = 0) -> Explanation:
    """Say what a viewmaker's views do to some inputs, in units, beside its random twin's.

    Magnitudes are those of :meth:`viewaug.perturbations.Perturbation.magnitudes`, before a budget blends, and of what
    comes out, :func:`viewaug.perturbations.measure` of view - input. Of ``one_of`` those of a step are of all views,
    also where another one was drawn.

    Args:
        viewmaker: of any generator.
        x: inputs, ``(N, C, *spatial)``, as it takes them; for perturbations that mix samples two or more.
        views: of each input, by different noise.
        seed: of the noise.

    Raises:
        TypeError: if `viewmaker` is not one, or `views` no integer.
        ValueError: if `x` does not fit it or is empty, or for fewer than two views.

    Examples:
        >>> viewmaker = viewaug.Viewmaker(perturbation="affine", budget=None)
        >>> found = viewaug.explain(viewmaker, torch.rand(8, 3, 16, 16))
        >>> found.learned["affine: rotation [°]"].shape
        torch.Size([8, 16])
    """
    check_viewmaker(viewmaker)
    check_count("views", views, 2)
    check_values(x, viewmaker)
    viewmaker._check_input(x)
    if not len(x):
        raise ValueError("Expected `x` to hold inputs, but it is empty.")
    x = widen(x)
    (learned, here), (random, there) = (_magnitudes(v, x, views, seed) for v in (viewmaker, random_twin(viewmaker)))
    return Explanation(viewmaker, x, learned, random, (here, there), seed)


def random_twin(viewmaker: Viewmaker, **options: Any) -> Viewmaker:
    """Return the viewmaker without anything learned, but for options of its generator."""
    kind = OriginalViewmaker if isinstance(viewmaker, OriginalViewmaker) else Viewmaker
    return kind(
        viewmaker.channels,
        budget=viewmaker.budget,
        dims=viewmaker.dims,
        generator="random",
        perturbation=viewmaker.perturbation,
        value_range=viewmaker.value_range,
        constraint=viewmaker.constraint,
        units=viewmaker.units,
        eps=viewmaker.eps,
        **options,
    ).to(next(viewmaker.parameters(), torch.empty(0)).device)


def input_share(values: Tensor) -> float | None:
    """Estimate how much of the variance of a magnitude is the input's; the rest is the noise's.

    By the law of total variance ``Var(m) = Var(E[m | x]) + E[Var(m | x)]``, and the share is the first term's. The
    second is estimated by the mean variance over the views of an input, `within`; the first by the variance of the
    inputs' means less ``within / V``, which noise alone gives these, or 0 if that is more: the estimator of one-way
    random effects (Searle, Casella and McCulloch, Variance Components, 1992, section 3.5).

    Args:
        values: ``(N, V)``, of V views of each of N inputs.

    Returns:
        From 0 to 1; None where there is no variance, or fewer than two inputs or views.

    Examples:
        >>> input_share(torch.tensor([[1.0, 1.0], [2.0, 2.0]])), input_share(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
        (1.0, 0.0)
    """
    if min(values.shape) < 2:
        return None
    values = values.double()
    within = values.var(1).mean()
    between = (values.mean(1).var() - within / values.shape[1]).clamp(min=0)
    total = float(between + within)
    rounding = 1e-6 * float(values.abs().max())
    return float(between) / total if total > rounding**2 else None


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two distribution functions, from 0 to 1, as Kolmogorov and Smirnov have it.

    Examples:
        >>> apart(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
        0.5
    """
    one, other = one.flatten().sort()[0], other.flatten().sort()[0]
    at = torch.cat([one, other])
    shares = [torch.searchsorted(part, at, right=True).double() / len(part) for part in (one, other)]
    return float((shares[0] - shares[1]).abs().max())


def summarise(values: Tensor) -> Summary:
    """Return the mean and the 5th, 50th and 95th percentile."""
    values = values.double().flatten()
    return Summary(float(values.mean()), *torch.quantile(values, values.new_tensor([0.05, 0.5, 0.95])).tolist())


@torch.no_grad()
def observe(viewmaker: Viewmaker, x: Tensor, noise: Sequence[Tensor]) -> Observed:
    """Make views, and keep what the generator made for them."""
    made: list[Raw] = []
    handle = viewmaker.generator.register_forward_hook(lambda module, inputs, output: made.append(output))
    try:
        view = viewmaker(x, tuple(noise))
    finally:
        handle.remove()
    draws = noise[-1] if viewmaker.perturbation.draws(x.shape[2:]) else x.new_empty(x.shape[0], 0)
    whole = Raw(made[0].maps.to(x.dtype), made[0].numbers.to(x.dtype), draws, 1)
    return Observed(view, whole, viewmaker.perturbation.twin(whole) if viewmaker.generator.from_noise else whole)


def batches(viewmaker: Viewmaker, x: Tensor, views: int, seed: int) -> Iterator[tuple[int, Tensor, Observed]]:
    """Return views of all inputs, some at a time, with their number; they depend on the seed and the place alone."""
    for number in range(views):
        for batch, part in enumerate(_split(x)):
            yield number, part, observe(viewmaker, part, _noise(viewmaker, part, seed, batch, number))


def parts(perturbation: Perturbation, raw: Raw) -> Iterator[tuple[Perturbation, Raw]]:
    """Return each perturbation that is not made of others, and each choice between some, with its raw output."""
    if isinstance(perturbation, OneOf):
        yield perturbation, raw
    if isinstance(perturbation, Compound):
        for step, part in perturbation.parts(raw):
            yield from parts(step, part)
    else:
        yield perturbation, raw


def _split(x: Tensor) -> tuple[Tensor, ...]:
    """Divide inputs into batches of about one size, so that none is left without a partner."""
    return x.tensor_split(-(-len(x) // _BATCH))


def _noise(viewmaker: Viewmaker, x: Tensor, seed: int, batch: int, number: int) -> tuple[Tensor, ...]:
    return viewmaker.draw_noise(x, generator_at(seed, number, batch, 0, x.device))


def _magnitudes(viewmaker: Viewmaker, x: Tensor, views: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return the magnitudes of some views of each input, ``(N, V)``, and the mean size of the change at each place."""
    found: dict[str, list[Tensor]] = {}
    place = torch.zeros(1, *x.shape[2:], device=x.device)
    for _, part, seen in batches(viewmaker, x, views, seed):
        change = seen.view - part
        place += change.abs().mean(1, keepdim=True).sum(0) / (views * len(x))
        for name, values in _of_batch(viewmaker, part, seen, change).items():
            found.setdefault(name, []).append(values.float().cpu())
    return {name: torch.cat(each).view(views, len(x)).T for name, each in found.items()}, place.cpu()


@torch.no_grad()
def _of_batch(viewmaker: Viewmaker, x: Tensor, seen: Observed, change: Tensor) -> dict[str, Tensor]:
    found = {f"{VIEW}: {name}": values for name, values in measure(change).items()}
    whole, scale = viewmaker.perturbation, viewmaker._scale(x)
    if viewmaker.budget is not None and not whole.scales_up and not whole.divided:
        size = distortion(x, viewmaker._candidate(x, whole, seen.raw, scale))
        found[f"{VIEW}: blend that the budget allows [share]"] = distortion(x, seen.view) / size.clamp(min=1e-12)
    each = list(parts(whole, seen.raw))
    names: dict[str, int] = {}
    for perturbation, raw in each:
        kind = type(perturbation).__name__.lower()
        names[kind] = names.get(kind, 0) + 1
        if len(each) == 1 and type(perturbation).magnitudes is Perturbation.magnitudes:
            continue  # what comes out says it all
        shift = scale[0] if perturbation.unit_range else 0.0
        given = x if perturbation.unitless else standardise(x, shift, scale[1])
        part = kind if names[kind] == 1 else f"{kind} {names[kind]}"
        found |= {f"{part}: {name}": values for name, values in perturbation.magnitudes(given, raw).items()}
    return found


def _text(values: Tensor) -> str:
    found = summarise(values)
    return f"{found.mean:.3g} ({found.low:.3g} to {found.high:.3g})"
