"""The linear theory: its formulas against autograd, its figures against the known ones, its command."""

import json
import math

import pytest
import torch
from viewaug.examples import linear_theory as theory


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_views_keep_a_feature_to_a_degree():
    u, w = theory.draw(2000, seeded())
    v = theory.view(u, w, torch.tensor([0.7, 0.0], dtype=torch.float64))
    assert torch.corrcoef(torch.stack([u[..., 0, 0].flatten(), v[..., 0, 0].flatten()]))[0, 1] == pytest.approx(
        0.7, abs=0.01
    )
    assert (u[..., 1, 0] * v[..., 1, 0]).mean() == pytest.approx(0, abs=0.02)
    assert v.var().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(v[..., 1:], w[..., 1:])


def test_gradient_and_drift():
    u, w = theory.draw(1, seeded())
    v = theory.view(u, w, torch.tensor([0.9, 0.5], dtype=torch.float64))
    theta = torch.stack([theory.extractor(0.3, 0.4), theory.extractor(1.2, 1.0)]).requires_grad_()
    fu, fv = (u[0] * theta).sum(-1), (v[0] * theta).sum(-1)
    loss = torch.nn.functional.cross_entropy(fu @ fv.T, torch.arange(theory.PAIRS), reduction="sum")
    (expected,) = torch.autograd.grad(loss, theta)
    grad = theory.gradient(theta.detach(), u, v)
    torch.testing.assert_close(grad[0], expected)

    def angle(step: float) -> float:
        moved = theta.detach()[0] - step * expected[0]
        return math.acos(moved[0] / moved.norm())

    slope = (angle(1e-6) - angle(-1e-6)) / 2e-6
    assert theory.drift(theta.detach()[0], grad[:, 0]).item() == pytest.approx(slope, rel=1e-5)


def test_lemma():
    for row in theory.lemma(seeded(), 200_000):
        assert row["measured"] == pytest.approx(row["predicted"], abs=0.005)


def test_known_values_of_one_step():
    """Gains of 0.057 and 0.246, found by another program."""
    for other, gain in ((0.5, 0.057), (1.0, 0.246)):
        row = theory.one_step(0.2, 0.1, other, 4000, seeded())
        assert abs(row["gain"] - gain) < 1.5 * row["interval"]
        assert row["gain"] > row["interval"]


def test_command_resumes(tmp_path, capsys):
    arguments = ["--batches", "1000", "--steps", "2", "--workers", "1", "--out", str(tmp_path)]
    theory.main(arguments)
    printed = capsys.readouterr().out
    assert "| cosine | probe error, measured |" in printed
    cell = next((tmp_path / "cells").glob("train-*.json"))
    content = json.loads(cell.read_text())
    content["cell"]["found"]["angle"] = 12.34  # kept, so that one sees it was not run again
    cell.write_text(json.dumps(content))
    theory.main(arguments)
    assert "12.34" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        theory.main([*arguments, "--seed", "1"])
    assert "--out" in capsys.readouterr().err
