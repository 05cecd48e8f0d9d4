"""Probes: against scikit-learn, through a file, and what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from viewaug import probes
from viewaug.probes import Probe, correct_probability, load_probe, save_probe


def data(classes: int = 3, count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    label = torch.arange(count) % classes
    x = torch.randn(count, 2, 5)
    x[:, 0] = 3 * x[:, 0] + 2 * label[:, None] + 7
    return x, label


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_is_a_standardised_logistic_regression(classes):
    x, label = data(classes)
    probe = Probe.fit(nn.Flatten(), x, {"kind": label, "half": label % 2}, batch=32)
    flat = x.flatten(1).double().numpy()
    expected = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(flat, label.numpy())
    found = probe(x)
    assert list(found) == ["kind", "half"]
    np.testing.assert_allclose(found["kind"].softmax(1).numpy(), expected.predict_proba(flat), atol=2e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_on_a_device_is_the_same(classes, monkeypatch):
    """By torch, in single precision."""
    x, label = data(classes)
    expected = Probe.fit(nn.Flatten(), x, {"kind": label})(x)["kind"].softmax(1)
    monkeypatch.setattr(probes, "_by_sklearn", lambda standard, label: probes._by_torch(standard.float(), label))
    torch.testing.assert_close(
        Probe.fit(nn.Flatten(), x, {"kind": label})(x)["kind"].softmax(1), expected, atol=2e-3, rtol=0
    )


def test_fit_leaves_the_encoder_alone():
    x, label = data()
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(10), nn.Dropout(0.5)).train()
    probe = Probe.fit(encoder, x, {"kind": label})
    assert encoder.training
    assert encoder[1].num_batches_tracked == 0
    assert not any(parameter.requires_grad for parameter in probe.parameters())
    assert torch.equal(probe(x)["kind"], probe(x)["kind"])  # no dropout


def test_dead_features_say_nothing():
    x, label = data()
    x[:, 1] = 0.3
    logits = Probe.fit(nn.Flatten(), x, {"kind": label})(x)["kind"]
    x[:, 1] = -5
    probe = Probe.fit(nn.Flatten(), x, {"kind": label})
    torch.testing.assert_close(probe(x)["kind"], logits, rtol=1e-4, atol=1e-4)


def test_file(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(40, 3, 8, 8)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    encoder = encoder.to(memory_format=torch.channels_last)
    probe = Probe.fit(encoder, x, {"kind": torch.arange(40) % 4})
    save_probe(probe, tmp_path / "probe.pt2", x)
    with pytest.raises(ValueError, match=r"`trust=True`, or --trust, for .*probe\.pt2"):
        load_probe(tmp_path / "probe.pt2")
    loaded = load_probe(tmp_path / "probe.pt2", trust=True)
    for count in (1, 2, 40):  # any number of inputs
        torch.testing.assert_close(loaded(x[:count])["kind"], probe(x[:count])["kind"])
    assert [path.name for path in tmp_path.iterdir()] == ["probe.pt2"]


def test_without_room_there_is_no_file(tmp_path, no_room):
    x, label = data()
    with no_room(1000), pytest.raises(OSError, match="File too large"):
        save_probe(Probe.fit(nn.Flatten(), x, {"task": label}), tmp_path / "probe.pt2", x)
    assert not [*tmp_path.iterdir()]


def test_correct_probability():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = correct_probability(lambda x: {"a": logits, "b": logits}, torch.zeros(2, 1), {"b": torch.tensor([2, 0])})
    assert list(found) == ["b"]
    e = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(found["b"], [e[2] / e.sum(), 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: Probe(nn.Flatten(), {}), "`heads`"),
        (lambda p: Probe.fit(nn.Identity(), *with_label(torch.arange(90) % 3)), "`encoder` to return features"),
        (lambda p: Probe.fit(nn.Flatten(), *with_label(torch.arange(80) % 3)), "`labels` of 'kind' to be 90 integers"),
        (lambda p: Probe.fit(nn.Flatten(), *with_label(torch.rand(90))), "`labels` of 'kind' to be 90 integers"),
        (lambda p: Probe.fit(nn.Flatten(), *with_label(torch.arange(90) % 2 * 2)), "every class from 0"),
        (lambda p: Probe.fit(nn.Flatten(), *with_label(torch.zeros(90).long())), "at least two"),
        (lambda p: correct_probability(scorer, torch.zeros(1), {"b": torch.zeros(1).long()}), "scorer's tasks, a, but"),
        (lambda p: correct_probability(scorer, torch.zeros(1), {"a": torch.tensor([2])}), "`labels` of 'a' to be belo"),
        (lambda p: save_probe(nn.Flatten(), p / "probe.pt", torch.zeros(1, 1)), "`path` to end in .pt2"),
        (lambda p: load_probe(broken(p), trust=True), "is not a probe"),
    ],
)
def test_errors(act, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        act(tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt2"):
        load_probe(tmp_path / "none.pt2")


def with_label(label):
    return data()[0], {"kind": label}


def scorer(x):
    return {"a": torch.zeros(len(x), 2)}


def broken(folder):
    (folder / "broken.pt2").write_bytes(b"PK not a program")
    return folder / "broken.pt2"
