"""Metrics of what views change, and of which labels they destroy; they add up over batches and processes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from viewaug.budget import ValueRange, check_value_range, distortion
from viewaug.masks import mask_of

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError("viewaug.metrics needs torchmetrics: pip install 'viewaug[metrics]'") from error


class Distortion(Metric):
    """How far views are from their inputs.

    ``compute`` returns a dictionary: ``mean`` and ``max`` of the samples' mean ``|view - x|``, ``quantiles`` of it,
    ``linf``, the largest change of any element, and ``at_bounds``, the share of a view's values at the range's ends.

    Args:
        quantiles: which quantiles.
        value_range: ``(low, high)`` of the views; None for no bounds.

    Shape:
        - update: `x` and `view`, ``(B, *)``.

    Examples:
        >>> metric = Distortion(quantiles=(0.5,))
        >>> metric.update(torch.tensor([[0.5, 0.9], [0.5, 0.5]]), torch.tensor([[0.6, 1.0], [0.2, 0.6]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'mean': 0.15, 'max': 0.2, 'quantiles': 0.15, 'linf': 0.3, 'at_bounds': 0.25}
    """

    full_state_update = False
    samples: list[Tensor]
    linf: Tensor
    bounds: Tensor
    values: Tensor

    def __init__(
        self, quantiles: Sequence[float] = (0.05, 0.5, 0.95), value_range: ValueRange = (0.0, 1.0), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not all(0 <= q <= 1 for q in quantiles):
            raise ValueError(f"Expected `quantiles` to be between 0 and 1, but got {quantiles}.")
        check_value_range(value_range)
        self.quantiles, self.value_range = tuple(quantiles), value_range
        self.add_state("samples", [], dist_reduce_fx="cat")
        self.add_state("linf", torch.zeros(()), dist_reduce_fx="max")
        self.add_state("bounds", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("values", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, x: Tensor, view: Tensor, *, where: Tensor | None = None, lengths: Tensor | None = None) -> None:
        """Add a batch; what is spared, as of :func:`viewaug.distortion`, does not count."""
        self.samples.append(distortion(x, view, where=where, lengths=lengths).detach().float())
        if (keep := mask_of(x, where, lengths)) is not None:
            x, view = x[keep > 0], view[keep > 0]
        if x.numel():
            self.linf = torch.maximum(self.linf, (view - x).detach().abs().max().float())
        self.values += view.numel()
        if self.value_range is not None:
            low, high = self.value_range
            self.bounds += ((view <= low) | (view >= high)).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the figures."""
        samples = _joined(self.samples)
        return {
            "mean": samples.mean(),
            "max": samples.max(),
            "quantiles": torch.quantile(samples, samples.new_tensor(self.quantiles)).squeeze(),
            "linf": self.linf,
            "at_bounds": self.bounds / self.values,
        }


class LabelDestruction(Metric):
    """How often, and how much by chance, views destroy a label.

    From many views of each of many inputs, scored by a probe with the probability of the correct label. Feature
    Dropout (Tamkin et al., NeurIPS 2023, figure 2) shows such probabilities for one input, in a histogram.

    ``compute`` returns a dictionary:

    - ``survival``: the mean probability;
    - ``destruction``: the share of views whose probability is below the threshold;
    - ``within``: the share of the variance that lies between views of one input and not between inputs, by the
      one-way analysis of variance (one minus the intraclass correlation; Shrout & Fleiss, 1979): 1 if chance alone
      decides, 0 if the input does;
    - ``bimodality``: Sarle's coefficient; above 5/9, that of the uniform distribution, it speaks for two modes;
    - ``interval``: a bootstrap interval of each of these, of 95 %, over inputs.

    Args:
        threshold: below which a label counts as destroyed, such as the chance of guessing it.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Shape:
        - update: `probability`, ``(B, V)``: of the correct labels of B inputs, on V >= 2 views of each.

    Examples:
        >>> metric = LabelDestruction(threshold=0.1)
        >>> metric.update(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        >>> figures = metric.compute()
        >>> [round(float(figures[name]), 2) for name in ("survival", "destruction", "within")]
        [0.5, 0.5, 1.0]
    """

    full_state_update = False
    probabilities: list[Tensor]

    def __init__(self, threshold: float, *, resamples: int = 1000, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_threshold(threshold)
        self.threshold, self.resamples, self.seed = threshold, resamples, seed
        self.add_state("probabilities", [], dist_reduce_fx="cat")

    def update(self, probability: Tensor) -> None:
        """Add the probabilities of some inputs' views."""
        _check_probability(probability)
        if self.probabilities and probability.shape[1] != self.probabilities[0].shape[1]:
            raise ValueError(
                f"Expected `probability` of {self.probabilities[0].shape[1]} views, but got {tuple(probability.shape)}."
            )
        self.probabilities.append(_wide(probability.detach()))

    def compute(self) -> dict[str, Any]:
        """Return the figures."""
        p = _joined(self.probabilities)
        generator = torch.Generator().manual_seed(self.seed)
        index = torch.randint(len(p), (self.resamples, len(p)), generator=generator).to(p.device)
        drawn = [self._figures(p[rows]) for rows in index]
        figures: dict[str, Any] = self._figures(p)
        ends = p.new_tensor([0.025, 0.975])
        figures["interval"] = {
            name: torch.nanquantile(torch.stack([figure[name] for figure in drawn]), ends) for name in figures
        }
        return figures

    def _figures(self, p: Tensor) -> dict[str, Tensor]:
        return {
            "survival": p.mean(),
            "destruction": _wide(p < self.threshold).mean(),
            "within": _within(p),
            "bimodality": _bimodality(p.flatten()),
        }


class FeatureDropout(Metric):
    """Which labels survive a view together: whether views drop one feature at a time, and which.

    ``compute`` returns a dictionary: ``survival``, ``(T,)``, the share of views on which each task's label survives;
    ``none``, ``one`` and ``all``, the share of views that drop no label, exactly one, and every one; ``correlation``,
    ``(T, T)``, of survival between tasks, NaN for a task that always or never survives; and ``dropout``, ``(T, T)``,
    whose row i says how often each label survives the views that drop label i, NaN if there are none.

    Args:
        thresholds: for each task's name the probability of the correct label below which it counts as dropped.

    Shape:
        - update: for each task ``(B,)`` or ``(B, V)``, of the same views.

    Examples:
        >>> metric = FeatureDropout({"photo": 0.5, "digit": 0.5})
        >>> metric.update({"photo": torch.tensor([0.9, 0.1, 0.9]), "digit": torch.tensor([0.1, 0.9, 0.9])})
        >>> metric.compute()["one"]
        tensor(0.6667, dtype=torch.float64)
    """

    full_state_update = False
    survived: list[Tensor]

    def __init__(self, thresholds: Mapping[str, float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(thresholds) < 2:
            raise ValueError(f"Expected `thresholds` of at least two tasks, but got {dict(thresholds)}.")
        for threshold in thresholds.values():
            _check_threshold(threshold)
        self.thresholds = dict(thresholds)
        self.add_state("survived", [], dist_reduce_fx="cat")

    def update(self, probabilities: Mapping[str, Tensor]) -> None:
        """Add the probabilities of the correct labels on some views."""
        if set(probabilities) != set(self.thresholds):
            expected, got = ", ".join(self.thresholds), ", ".join(probabilities)
            raise ValueError(f"Expected `probabilities` of the tasks {expected}, but got {got}.")
        parts = [probabilities[task] for task in self.thresholds]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"Expected `probabilities` of one shape, but got {[tuple(part.shape) for part in parts]}.")
        limits = list(self.thresholds.values())
        survived = [(part.detach() >= limit).flatten() for part, limit in zip(parts, limits, strict=True)]
        self.survived.append(_wide(torch.stack(survived, 1)))

    def compute(self) -> dict[str, Tensor]:
        """Return the figures; tasks are in the order of `thresholds`."""
        survived = _joined(self.survived)
        dropped = 1 - survived
        count = dropped.sum(1)
        return {
            "survival": survived.mean(0),
            "none": _wide(count == 0).mean(),
            "one": _wide(count == 1).mean(),
            "all": _wide(count == len(self.thresholds)).mean(),
            "correlation": torch.corrcoef(survived.T),
            "dropout": (dropped.T @ survived) / dropped.sum(0)[:, None],
        }


class Collapse(Metric):
    """Whether embeddings have collapsed.

    ``compute`` returns a dictionary: ``spread``, the root mean square distance of the normalised embeddings from their
    mean, 1 if they point everywhere and 0 if all point the same way (compare Chen & He, CVPR 2021, figure 2), and
    ``effective_rank``, the exponential of the entropy of their covariance's normalised eigenvalues (after Roy &
    Vetterli, EUSIPCO 2007).

    Args:
        dim: number of features.

    Shape:
        - update: `embeddings`, ``(B, dim)``.

    Examples:
        >>> metric = Collapse(dim=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'spread': 1.0, 'effective_rank': 2.0}
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, embeddings: Tensor) -> None:
        """Add some embeddings."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"Expected `embeddings` of shape (B, {self.dim}), but got {tuple(embeddings.shape)}.")
        z = torch.nn.functional.normalize(_wide(embeddings.detach()))
        self.count += len(z)
        self.total += z.sum(0)
        self.products += z.T @ z

    def compute(self) -> dict[str, Tensor]:
        """Return the figures."""
        if not self.count:
            raise ValueError(_EMPTY)
        # Not every device finds eigenvalues.
        count, total, products = (state.cpu() for state in (self.count, self.total, self.products))
        mean = total / count
        covariance = products / count - mean[:, None] * mean
        share = torch.linalg.eigvalsh(covariance).clamp(min=0)
        share = share / share.sum()
        return {
            "spread": covariance.trace().clamp(min=0).sqrt().to(self.total.device),
            "effective_rank": torch.special.entr(share).sum().exp().to(self.total.device),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Collapse":
        def moved(state: Tensor) -> Tensor:
            try:
                return fn(state)
            except TypeError:  # a device without float64
                return fn(state.float())

        return super()._apply(moved, *args, **kwargs)  # type: ignore[return-value]


def _wide(x: Tensor) -> Tensor:
    """Return numbers in float64, or in float32 on devices that have no other."""
    return x.float() if x.device.type == "mps" else x.double()


def mask_share(x: Tensor, view: Tensor, mask: Tensor) -> Tensor:
    """Return how much of each view's change lies on a mask: the share of ``|view - x|`` there, NaN without a change.

    Args:
        x: the inputs.
        view: views of them.
        mask: the place, such as an overlay's opacity, in [0, 1].

    Shape:
        - x, view: ``(B, C, *spatial)``.
        - mask: ``(B, 1, *spatial)``.
        - output: ``(B,)``.

    Examples:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> mask_share(x, x + torch.tensor([[3.0, 1.0], [0.0, 0.0]]), mask=torch.eye(2)[None, None])
        tensor([0.7500])
    """
    if x.shape != view.shape or mask.shape != (len(x), 1, *x.shape[2:]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, view, mask))
        raise ValueError(f"Expected `x`, `view` (B, C, *spatial) and `mask` (B, 1, *spatial), but got {shapes}.")
    change = (view - x).abs()
    return (change * mask).flatten(1).sum(1) / change.flatten(1).sum(1)


_EMPTY = "Expected an `update` with at least one sample before `compute`, but there was none."


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    joined = dim_zero_cat(parts) if len(parts) else torch.empty(0)
    if not len(joined):
        raise ValueError(_EMPTY)
    return joined


def _within(p: Tensor) -> Tensor:
    """The share of the variance between views of one input, (inputs, views)."""
    views = p.shape[1]
    inside = p.var(1).mean()
    between = (p.mean(1).var() - inside / views).clamp(min=0) if len(p) > 1 else torch.zeros_like(inside)
    return inside / (inside + between)


def _bimodality(p: Tensor) -> Tensor:
    """Sarle's coefficient with the corrections for finite samples."""
    n = len(p)
    if n < 4:
        return p.new_tensor(torch.nan)
    d = p - p.mean()
    m2, m3, m4 = (d.pow(k).mean() for k in (2, 3, 4))
    skewness = (n * (n - 1)) ** 0.5 / (n - 2) * m3 / m2**1.5
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"Expected `threshold` to be in (0, 1], but got {threshold}.")


def _check_probability(probability: Tensor) -> None:
    if probability.ndim != 2 or probability.shape[1] < 2:
        raise ValueError(f"Expected `probability` of shape (B, V) with V >= 2, but got {tuple(probability.shape)}.")
    if not bool(((probability >= 0) & (probability <= 1 + 1e-6)).all()):
        raise ValueError("Expected `probability` to be between 0 and 1.")
