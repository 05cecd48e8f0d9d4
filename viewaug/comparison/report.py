"""The report of a comparison, in a folder."""

from pathlib import Path

from viewaug import save
from viewaug._files import replacing
from viewaug.comparison.grid import write_json
from viewaug.comparison.result import Comparison
from viewaug.comparison.snippets import HOSTS

_FILES = {  # none may hide the package that it imports
    "plain": "train.py",
    "lightly": "train_by_lightly.py",
    "lightning": "train_by_lightning.py",
    "solo-learn": "solo_learn.yaml",
}


def write_report(comparison: Comparison, out: Path, place: str = "mine.npz") -> list[Path]:
    """Write what was found: a report, figures, the viewmaker of the best learned views, and code; return the files.

    Args:
        comparison: what was found.
        out: folder.
        place: of the data, for the code.
    """
    files = [out / "report.md", out / "results.json"]
    write_json(out / "results.json", comparison.to_json())
    try:
        from viewaug.comparison.figures import accuracy_figure, views_figure

        for name, draw in (("views", views_figure), ("accuracy", accuracy_figure)):
            files.append(out / f"{name}.png")
            with replacing(files[-1]) as temporary:
                draw(comparison).savefig(temporary, dpi=110)
    except ImportError:  # without matplotlib there are no figures
        pass
    viewmaker = comparison.viewmaker
    if viewmaker is not None:
        files.append(out / "viewmaker.safetensors")
        save(viewmaker, files[-1])
    code = {}
    if comparison.best is not None:
        for host in HOSTS:
            try:
                code[host] = comparison.snippet(host, place=place)
            except ValueError as error:
                code[host] = f"# {error}\n"
                continue
            files.append(out / "snippets" / _FILES[host])
            with replacing(files[-1]) as temporary:
                temporary.write_text(code[host], encoding="utf-8")
    with replacing(out / "report.md") as temporary:
        temporary.write_text(_report(comparison, code), encoding="utf-8")
    return files


def _report(comparison: Comparison, code: dict[str, str]) -> str:
    plan, s = comparison.plan, comparison.settings
    facts = [
        *comparison.notes,
        f"Encoder: {' and '.join(comparison.encoders)}. Objective: {s['objective']}, batches of {s['batch']}.",
        f"Each run has {plan.seconds:.1f} seconds of pretraining at the measured price of a step; seeds: {plan.seeds}.",
        f"Strengths were chosen on validation by {plan.trials} trials of each method that has several."
        if plan.trials > 1
        else "There were no trials: strengths are at their defaults.",
        "The best is chosen on validation; intervals of 95 % are over seeds, differences paired by seed and for all "
        "comparisons at once.",
    ]
    for name in comparison.methods:
        lost = sum(cell["loss"] is None and cell["steps"] > 0 for cell in comparison.cells if cell["method"] == name)
        if lost and comparison.methods[name].maker != "untrained":
            facts.append(f"{lost} runs of {name} diverged; their features count as constant.")
    if s["labelled"]:
        facts.append(f"Probes know {s['labelled']} labelled samples.")
    lines = ["# Which views do these data need?", "", f"**{comparison.verdict}**".replace("\n", "**\n\n**"), ""]
    lines += ["Accuracy of linear probes on test inputs, in %:" if comparison.labels else "Without labels:", ""]
    lines += [comparison.table, "", *(f"- {fact}" for fact in facts), ""]
    proxies = comparison.proxies()
    if proxies:
        lines += ["What would have been chosen without labels:", "", proxies, ""]
    lines += ["![Views of each kind](views.png)", "", "![Accuracy against time and strength](accuracy.png)", ""]
    lines += ["## Prices", "", "```", plan.table(), "```", ""]
    if code:
        lines += [f"## {comparison.best} in your training", ""]
        if comparison.viewmaker is not None:
            lines += ["`viewmaker.safetensors` holds its viewmaker, trained if it learns (`viewaug.load`)."]
        lines += ["Those of all methods are in `viewmakers/`.", ""]
        for host, text in code.items():
            language = "yaml" if host == "solo-learn" else "python"
            lines += [f"{host}:", "", f"```{language}", text.rstrip(), "```", ""]
    return "\n".join(lines)
