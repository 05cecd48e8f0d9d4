"""The README: its code runs, its tables are the results that are kept, and its diff is the example."""

import json
import re
from pathlib import Path

import pytest
import torch
from viewaug.examples import demo, linear_theory

from viewaug.perturbations import PERTURBATIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", CODE[1:], ids=range(1, len(CODE)))
def test_code_runs(code, monkeypatch):
    monkeypatch.setitem(PERTURBATIONS, "invert", None)  # the name that the code gives away goes again
    exec(code, {})


def test_loop_trains_both_players():
    torch.manual_seed(0)
    names = {"loader": [torch.rand(8, 3, 32, 32) for _ in range(2)]}
    before = "before = [p.clone() for p in viewmaker.parameters()]\n"
    exec(CODE[0].replace("for images in loader", before + "for images in loader"), names)
    assert torch.isfinite(names["loss"])
    assert all((p != q).any() for p, q in zip(names["viewmaker"].parameters(), names["before"], strict=True))
    assert len([line for line in CODE[0].splitlines() if "viewmaker" in line or "augmentation" in line]) <= 10


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "results").glob("*.json")), ids=lambda file: file.stem)
def test_tables_are_the_results_that_are_kept(file):
    assert demo.table(json.loads(file.read_text())["cells"]) in README


def test_lightly_example_adds_at_most_ten_lines():
    diff = re.search(r"```diff\n(.*?)```", README, re.DOTALL)[1].splitlines()
    added = [line[1:] for line in diff if line.startswith("+")]
    example = [line.strip() for line in (ROOT / "examples" / "lightly_simclr.py").read_text().splitlines()]
    assert len(added) <= 10
    assert [line for line in added if line not in example] == []


def test_tables_of_the_linear_theory_are_the_results_that_are_kept():
    results = json.loads((ROOT / "examples" / "results" / "linear_theory" / "results.json").read_text())
    assert all(table in README for table in linear_theory.report(results).split("\n\n"))
