"""README and site: their code runs, their tables are the results that are kept, and every public name is there."""

import importlib
import json
import re
import statistics
from pathlib import Path

import forked
import pytest
import torch
from viewaug.examples import former, linear_theory, random_bits, steering, transfer, when
from viewaug.examples.multitask import report
from viewaug.examples.multitask.cells import accuracy, read_cells
from viewaug.examples.multitask_audio import AudioExperiment
from viewaug.examples.multitask_image import ImageExperiment

import viewaug
from viewaug._markdown import markdown_table
from viewaug.commands._report import tables
from viewaug.commands.hub import shelf
from viewaug.comparison import Comparison
from viewaug.perturbations import PERTURBATIONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "examples" / "results"
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in file.parts
}
README = PAGES["README.md"]
ALL = "\n".join(PAGES.values())
CODE = {
    f"{name}-{i}": code
    for name, text in PAGES.items()
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
LOOP = CODE.pop("README.md-0")  # which needs a loader


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_code_runs(code, monkeypatch, tmp_path):
    monkeypatch.setitem(PERTURBATIONS, "invert", None)  # the name that the code gives away goes again
    monkeypatch.chdir(tmp_path)  # some write files
    exec(code, {})


def test_loop_trains_both_players():
    torch.manual_seed(0)
    names = {"loader": [torch.rand(8, 3, 32, 32) for _ in range(2)]}
    before = "before = [p.clone() for p in viewmaker.parameters()]\n"
    exec(LOOP.replace("for images in loader", before + "for images in loader"), names)
    assert torch.isfinite(names["loss"])
    assert all((p != q).any() for p, q in zip(names["viewmaker"].parameters(), names["before"], strict=True))
    assert len([line for line in LOOP.splitlines() if "viewmaker" in line or "augmentation" in line]) <= 10


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_tables_are_the_results_that_are_kept(file):
    assert former.table(json.loads(file.read_text())["cells"]) in ALL


@pytest.mark.parametrize("name", ["digits", "overlays", "smartwatch"])
def test_tables_of_the_demo_are_the_results_that_are_kept(name):
    comparison = Comparison.read(RESULTS / "demo" / name / "results.json")
    text = (RESULTS / "demo" / name / "report.md").read_text()
    page = PAGES["docs/evidence/sensors.md" if name == "smartwatch" else "docs/evidence/demo.md"]
    for part in (comparison.table, *comparison.verdict.splitlines()):
        assert part in text
        assert part in page


def test_tables_of_all_data_sets_are_those_of_the_results():
    assert when.table() in PAGES["docs/when.md"]
    assert when.twins() in PAGES["docs/when.md"]
    assert when.regrets() in PAGES["docs/when.md"]
    assert when.screened() in PAGES["docs/evidence/families.md"]
    assert when.even() in PAGES["docs/evidence/families.md"]
    assert when.brief() in README


def test_tables_of_transfer_are_the_results_that_are_kept():
    page = PAGES["docs/evidence/frozen.md"]
    found = transfer.found()
    assert transfer.differences(found) in page
    assert transfer.prices(found) in page
    assert all(comparison.table in page for comparison in found.values())
    assert all(comparison.verdict in page for comparison in found.values())


def test_list_of_trained_viewmakers_is_that_of_the_package():
    head, *rows = shelf()
    assert markdown_table(head, rows, names=2) in PAGES["docs/guides/hub.md"]


def test_diff_of_lightlys_example_is_the_file_that_is_applied():
    """By tests/test_real_lightly.py, to lightly's own."""
    diff = re.search(r"```diff\n(.*?)```", PAGES["docs/adapters/lightly.md"], re.DOTALL)[1]
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


@pytest.mark.parametrize(
    ("experiment", "folder", "page"),
    [
        (ImageExperiment(), "image", "images"),
        (ImageExperiment(), "night", "images"),
        (AudioExperiment(), "audio", "audio"),
    ],
)
def test_tables_of_multitask_experiments_are_the_results_that_are_kept(experiment, folder, page):
    cells, _ = read_cells(experiment, RESULTS / folder)
    text = (RESULTS / folder / "report.md").read_text()
    assert report.report(experiment, cells) in text
    assert report.comparison(experiment, cells) in text
    assert report.papers(experiment) in PAGES[f"docs/evidence/{page}.md"]


def test_what_is_said_of_scale_is_of_the_results_that_are_kept():
    """Photo, digit and mean of learned views and views by hand, and the lead of the former, at two scales."""
    for folder in ("image", "night"):
        cells = [cell for cell in read_cells(ImageExperiment(), RESULTS / folder)[0] if cell["overlay"] == "digits"]
        scores = {}
        for method in ("learned", "expert"):
            mine = [accuracy(cell) for cell in cells if cell["method"] == method]
            tasks = [statistics.mean(found[task] for found in mine) for task in ("background", "overlay")]
            scores[method] = statistics.mean(tasks)
            row = f"{tasks[0]:.1f} / {tasks[1]:.1f} / {scores[method]:.1f}"
            assert row in PAGES["docs/evidence/images.md"]
        lead = f"{scores['learned'] - scores['expert']:.1f}"
        for page in ("README.md", "docs/evidence/images.md", "docs/when.md"):
            assert re.search(rf"(?<![\d.]){re.escape(lead)}(?![\d.]*\d)", PAGES[page]), (page, lead)


def test_tables_of_steering_are_the_results_that_are_kept():
    for file in sorted((RESULTS / "steering").glob("*.json")):
        assert steering.table(json.loads(file.read_text())) in PAGES["docs/evidence/steering.md"]


def test_links_lead_somewhere():
    pages = [ROOT / name for name in PAGES]
    for page in (*pages, *RESULTS.glob("*/*.md"), *RESULTS.glob("*/*/*.md")):
        for link in re.findall(r"\]\((?!http|_build)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("module", ["viewaug", "viewaug.perturbations"])
def test_every_public_name_is_in_the_reference(module):
    reference = PAGES["docs/api.md"]
    missing = [
        name
        for name in importlib.import_module(module).__all__
        if not re.search(rf"\b{name}\b", reference)
        and name not in ("COMMON", "Compound", "Spec", "leaves", "check_unbounded")
    ]
    assert missing == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", sorted(DOCS.glob("notebooks/*.ipynb")), ids=lambda file: file.stem)
def test_notebooks(file, monkeypatch, tmp_path):
    """They run from top to bottom, and print what is kept in them, but for what is measured."""
    monkeypatch.chdir(tmp_path)
    threads, names = torch.get_num_threads(), {}
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    try:
        for cell in cells:
            exec("".join(cell["source"]), names)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "views.png").exists()
    assert all(cell["outputs"] for cell in cells[:2])
    assert file.stat().st_size < 20_000


def test_site(tmp_path):
    """Builds offline, without a warning."""
    pytest.importorskip("sphinx")
    built = forked.run(["-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", DOCS, tmp_path])
    assert built.returncode == 0, built.stderr
    assert viewaug.__version__ in (tmp_path / "index.html").read_text()
    assert "viewaug.JointOptimizer" in (tmp_path / "api.html").read_text()
    assert any((tmp_path / "_images").glob("photographs*.png"))


@pytest.mark.parametrize("file", sorted((RESULTS / "families" / "twins").glob("*.json")), ids=lambda file: file.stem)
def test_tables_of_random_twins_are_the_results_that_are_kept(file):
    assert Comparison.read(file).table in PAGES["docs/evidence/families.md"]


@pytest.mark.parametrize("file", sorted((RESULTS / "explain").glob("*.json")), ids=lambda file: file.stem)
def test_tables_of_recipes_are_the_results_that_are_kept(file):
    assert Comparison.read(file).table in PAGES["docs/guides/explain.md"]
