"""The README: its code runs, its tables are the results that are kept, and its diff is the example."""

import json
import re
from pathlib import Path

import pytest
import torch
from viewaug.examples import former, linear_theory, random_bits
from viewaug.examples.multitask import report
from viewaug.examples.multitask.cells import read_cells
from viewaug.examples.multitask_audio import AudioExperiment
from viewaug.examples.multitask_image import ImageExperiment

from viewaug.commands._report import tables
from viewaug.comparison import Comparison
from viewaug.perturbations import PERTURBATIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "examples" / "results"
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", CODE[1:], ids=range(1, len(CODE)))
def test_code_runs(code, monkeypatch, tmp_path):
    monkeypatch.setitem(PERTURBATIONS, "invert", None)  # the name that the code gives away goes again
    monkeypatch.chdir(tmp_path)  # some write files
    exec(code, {})


def test_loop_trains_both_players():
    torch.manual_seed(0)
    names = {"loader": [torch.rand(8, 3, 32, 32) for _ in range(2)]}
    before = "before = [p.clone() for p in viewmaker.parameters()]\n"
    exec(CODE[0].replace("for images in loader", before + "for images in loader"), names)
    assert torch.isfinite(names["loss"])
    assert all((p != q).any() for p, q in zip(names["viewmaker"].parameters(), names["before"], strict=True))
    assert len([line for line in CODE[0].splitlines() if "viewmaker" in line or "augmentation" in line]) <= 10


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_tables_are_the_results_that_are_kept(file):
    assert former.table(json.loads(file.read_text())["cells"]) in README


def test_table_of_the_demo_is_the_result_that_is_kept():
    comparison = Comparison.read(RESULTS / "demo" / "results.json")
    report = (RESULTS / "demo" / "report.md").read_text()
    for text in (comparison.table, *comparison.verdict.splitlines()):
        assert text in report
        assert text in README


def test_diff_of_lightlys_example_is_the_file_that_is_applied():
    """By tests/test_real_lightly.py, to lightly's own."""
    diff = re.search(r"```diff\n(.*?)```", README, re.DOTALL)[1]
    assert diff == (ROOT / "examples" / "lightly_simclr.diff").read_text()
    added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++") and line != "+"]
    assert len(added) <= 10


def test_tables_of_the_linear_theory_are_the_results_that_are_kept():
    results = json.loads((RESULTS / "linear_theory" / "results.json").read_text())
    page = (RESULTS / "linear_theory" / "README.md").read_text()
    assert all(table in page for table in linear_theory.report(results).split("\n\n"))


@pytest.mark.parametrize("file", sorted((RESULTS / "random_bits").glob("*.json")), ids=lambda file: file.stem)
def test_tables_of_random_bits_are_the_results_that_are_kept(file):
    cells = json.loads(file.read_text())["cells"]
    assert random_bits.table(cells) in (RESULTS / "random_bits" / "README.md").read_text()


def test_report_of_the_diagnosis_is_of_the_results_that_are_kept():
    results = json.loads((RESULTS / "diagnosis" / "results.json").read_text())
    assert tables(results) in (RESULTS / "diagnosis" / "report.md").read_text()


@pytest.mark.parametrize(("experiment", "folder"), [(ImageExperiment(), "image"), (AudioExperiment(), "audio")])
def test_tables_of_multitask_experiments_are_the_results_that_are_kept(experiment, folder):
    cells, _ = read_cells(experiment, RESULTS / folder)
    text = (RESULTS / folder / "report.md").read_text()
    assert report.report(experiment, cells) in text
    assert report.comparison(experiment, cells) in text


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *RESULTS.glob("*/*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"
