"""The metrics, against NumPy and SciPy on known inputs, over batches and processes."""

import numpy as np
import pytest
import scipy.stats
import torch

import viewaug
from viewaug.metrics import Collapse, Distortion, FeatureDropout, LabelDestruction


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_distortion():
    x = torch.rand(10, 3, 5, 6, generator=seeded())
    view = (x + 0.3 * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1)
    metric = Distortion()
    for a, b in zip(x.split(4), view.split(4), strict=True):
        metric.update(a, b)
    figures = metric.compute()
    change = np.abs((view - x).numpy())
    samples = change.reshape(10, -1).mean(1)
    assert figures["mean"] == pytest.approx(samples.mean(), rel=1e-5)
    assert figures["max"] == pytest.approx(samples.max(), rel=1e-5)
    np.testing.assert_allclose(figures["quantiles"], np.quantile(samples, [0.05, 0.5, 0.95]), rtol=1e-5)
    assert figures["linf"] == pytest.approx(change.max())
    assert figures["at_bounds"] == pytest.approx(np.isin(view.numpy(), [0, 1]).mean())
    metric.reset()
    metric.update(x, x)
    assert metric.compute()["linf"] == 0


def intraclass(p: np.ndarray) -> float:
    """ICC(1) by the mean squares of a one-way analysis of variance."""
    n, k = p.shape
    between = k * ((p.mean(1) - p.mean()) ** 2).sum() / (n - 1)
    within = ((p - p.mean(1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    return (between - within) / (between + (k - 1) * within)


def test_distortion_of_what_may_change():
    x = torch.zeros(2, 1, 4)
    view = torch.tensor([[[0.4, -0.2, torch.nan, 9.0]], [[0.1, 0.0, 0.0, 0.0]]])
    lengths = torch.tensor([2, 4])
    assert viewaug.distortion(x, view, lengths=lengths).tolist() == pytest.approx([0.3, 0.025])
    where = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])
    assert viewaug.distortion(x, view, where=where).tolist() == pytest.approx([0.3, 0.0])
    metric = Distortion(value_range=(0.0, 1.0))
    metric.update(x, view, lengths=lengths)
    found = metric.compute()
    assert found["mean"].item() == pytest.approx(0.1625)
    assert found["linf"].item() == pytest.approx(0.4)
    assert found["at_bounds"].item() == pytest.approx(4 / 6)  # those at 0 or below


def test_label_destruction():
    p = torch.rand(20, 15, generator=seeded()) * torch.rand(20, 1, generator=seeded(1))
    metric = LabelDestruction(threshold=0.1, resamples=200)
    for part in p.split(8):
        metric.update(part)
    figures = metric.compute()
    assert figures["survival"] == pytest.approx(p.mean().item())
    assert figures["destruction"] == pytest.approx((p < 0.1).float().mean().item())
    assert figures["within"] == pytest.approx(1 - intraclass(p.double().numpy()))
    flat, n = p.double().numpy().ravel(), p.numel()
    skewness, kurtosis = scipy.stats.skew(flat, bias=False), scipy.stats.kurtosis(flat, bias=False)
    expected = (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    assert figures["bimodality"] == pytest.approx(expected)
    for name, (low, high) in figures["interval"].items():
        assert low < figures[name] < high
    again = LabelDestruction(threshold=0.1, resamples=200)
    again.update(p)
    assert torch.equal(again.compute()["interval"]["within"], figures["interval"]["within"])


def test_destruction_by_chance_and_by_input():
    by_chance = torch.rand(200, 50, generator=seeded()).round()
    by_input = torch.arange(200.0).remainder(2)[:, None].expand(-1, 50)
    uniform = torch.rand(200, 50, generator=seeded())
    figures = {}
    for name, p in {"chance": by_chance, "input": by_input, "uniform": uniform}.items():
        metric = LabelDestruction(threshold=0.1, resamples=10)
        metric.update(p)
        figures[name] = metric.compute()
    assert figures["chance"]["within"] > 0.99
    assert figures["input"]["within"] == 0
    assert figures["chance"]["bimodality"] == pytest.approx(1, abs=0.01)
    assert figures["uniform"]["bimodality"] == pytest.approx(5 / 9, abs=0.01)


def test_feature_dropout():
    survived = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]])
    metric = FeatureDropout({"a": 0.5, "b": 0.5, "c": 0.2})
    for rows in (survived[:2], survived[2:]):
        metric.update({task: torch.tensor(rows[:, i]) * 0.9 + 0.05 for i, task in enumerate("abc")})
    figures = metric.compute()
    np.testing.assert_allclose(figures["survival"], survived.mean(0))
    dropped = (1 - survived).sum(1)
    assert [float(figures[name]) for name in ("none", "one", "all")] == [(dropped == n).mean() for n in (0, 1, 3)]
    np.testing.assert_allclose(figures["correlation"], np.corrcoef(survived.T))
    for i in range(3):
        np.testing.assert_allclose(figures["dropout"][i], survived[survived[:, i] == 0].mean(0))


def test_views_of_many_inputs_count_one_by_one():
    metric = FeatureDropout({"a": 0.5, "b": 0.5})
    metric.update({"a": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0], [1.0, 1.0]])})
    assert metric.compute()["one"] == 0.75


def test_collapse():
    z = torch.randn(500, 16, generator=seeded()) * torch.linspace(0.1, 2, 16) + 0.3
    metric = Collapse(dim=16)
    for part in z.split(77):
        metric.update(part)
    unit = z.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.cov(unit.T, bias=True))
    assert metric.compute()["spread"] == pytest.approx(np.sqrt(unit.var(0).sum()))
    assert metric.compute()["effective_rank"] == pytest.approx(np.exp(scipy.stats.entropy(values)))
    metric.reset()
    metric.update(torch.ones(10, 16) + 1e-3 * torch.randn(10, 16, generator=seeded()))
    assert metric.compute()["spread"] < 0.01


def test_collapse_on_a_device_without_float64():
    def to_device(state: torch.Tensor) -> torch.Tensor:
        if state.dtype == torch.float64:
            raise TypeError("no float64")  # as torch has it of mps
        return state.clone()

    z, metric, plain = torch.randn(50, 4, generator=seeded()), Collapse(dim=4), Collapse(dim=4)
    metric._apply(to_device)
    assert metric.total.dtype == torch.float32
    for each in (metric, plain):
        each.update(z)
    for name, value in plain.compute().items():
        torch.testing.assert_close(metric.compute()[name], value.float())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Distortion(quantiles=(2.0,)), "`quantiles`"),
        (lambda: Distortion(value_range=(1.0, 0.0)), "`value_range`"),
        (lambda: Distortion().update(torch.zeros(2, 3), torch.zeros(2, 4)), "shape"),
        (lambda: LabelDestruction(threshold=0.0), "`threshold`"),
        (lambda: LabelDestruction(threshold=0.5).update(torch.rand(4)), "`probability`"),
        (lambda: LabelDestruction(threshold=0.5).update(torch.rand(4, 1)), "`probability`"),
        (lambda: LabelDestruction(threshold=0.5).update(2 + torch.rand(4, 2)), "`probability`"),
        (lambda: FeatureDropout({"a": 0.5}), "`thresholds`"),
        (lambda: FeatureDropout({"a": 0.5, "b": 2.0}), "`threshold`"),
        (lambda: FeatureDropout({"a": 0.5, "b": 0.5}).update({"a": torch.rand(2)}), "`probabilities`"),
        (lambda: FeatureDropout({"a": 0.5, "b": 0.5}).update({"a": torch.rand(2), "b": torch.rand(3)}), "one shape"),
        (lambda: Collapse(dim=4).update(torch.rand(2, 3)), "`embeddings`"),
    ],
)
def test_errors(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_another_number_of_views_is_refused():
    metric = LabelDestruction(threshold=0.5)
    metric.update(torch.rand(2, 3))
    with pytest.raises(ValueError, match="3 views"):
        metric.update(torch.rand(2, 4))


def test_loads_on_use():
    assert viewaug.metrics.Distortion is Distortion


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics, whole = build(), build(sync_on_compute=False)
    for metric, whole_metric, updates in zip(metrics, whole, data(), strict=True):
        metric.update(*updates[rank])
        for update in updates:
            whole_metric.update(*update)
        compare(metric.compute(), whole_metric.compute())
    torch.distributed.destroy_process_group()


def build(**options):
    return (
        Distortion(**options),
        LabelDestruction(threshold=0.3, resamples=20, **options),
        FeatureDropout({"a": 0.5, "b": 0.5}, **options),
        Collapse(dim=4, **options),
    )


def data():
    x = torch.rand(2, 3, 8, generator=seeded())
    p = torch.rand(2, 4, 5, generator=seeded(1))
    return (
        [(x[i], 1 - x[i]) for i in range(2)],
        [(p[i],) for i in range(2)],
        [({"a": p[i], "b": 1 - p[i].flip(0)},) for i in range(2)],
        [(torch.randn(6, 4, generator=seeded(2 + i)),) for i in range(2)],
    )


def compare(a, b) -> None:
    for name, value in a.items():
        if isinstance(value, dict):
            compare(value, b[name])
        else:
            torch.testing.assert_close(value, b[name], equal_nan=True)


def test_two_processes(processes):
    processes(one_rank, 2)


@pytest.mark.parametrize(
    "metric", [Distortion(), LabelDestruction(0.1), FeatureDropout({"a": 0.5, "b": 0.5}), Collapse(3)], ids=str
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_compute(metric):
    with pytest.raises(ValueError, match="`update` with at least one sample"):
        metric.compute()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floats(dtype):
    """What is measured has the precision of the input, and what is added up has more."""
    torch.manual_seed(0)
    x, p, z = torch.rand(8, 3, 4, 4), torch.rand(8, 6), torch.randn(8, 5)
    view = (x + 0.1).clamp(0, 1)
    for make, exact, cast in (
        (Distortion, (x, view), (x.to(dtype), view.to(dtype))),
        (lambda: LabelDestruction(0.5, resamples=2), (p,), (p.to(dtype),)),
        (lambda: Collapse(5), (z,), (z.to(dtype),)),
    ):
        figures = []
        for inputs in (exact, cast):
            metric = make()
            metric.update(*inputs)
            figures.append({name: value for name, value in metric.compute().items() if isinstance(value, torch.Tensor)})
        for name, value in figures[0].items():
            torch.testing.assert_close(figures[1][name].double(), value.double(), rtol=0.05, atol=0.1)
