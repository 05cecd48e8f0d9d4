"""The linear theory of feature dropout, by simulation: section 3 of Feature Dropout (Tamkin et al., NeurIPS 2023).

An input has K features, each a direction mu_k in a row of its own; a view keeps feature k to a degree alpha_k; and an
encoder has one linear extractor theta_k a row. The theory says that noise on one feature helps another one to be
learned.

python -m viewaug.examples.linear_theory [--out DIR]
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewaug._files import replacing
from viewaug.commands._arguments import positive, seed
from viewaug.comparison.grid import default_workers, run_grid, write_json

K, DIM, PAIRS = 2, 10, 32
ALPHAS = (0.99, 0.9, 0.7, 0.5, 0.25, 0.0)


def draw(batches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw inputs and what makes their views: standard normal, ``(batches, PAIRS, K, DIM)``."""
    shape = batches, PAIRS, K, DIM
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def view(u: Tensor, w: Tensor, alpha: Tensor) -> Tensor:
    """Return views of `u` that keep feature k, the first direction of row k, to the degree ``alpha[k]``."""
    kept = alpha * u[..., 0] + (1 - alpha**2).sqrt() * w[..., 0]
    return torch.cat([kept[..., None], w[..., 1:]], -1)


def gradient(theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the gradient of the contrastive loss by each extractor, ``(batches, K, DIM)``.

    The loss is the cross entropy of the dot products of features against the matching view, summed over the batch.

    Args:
        theta: the extractors, ``(K, DIM)`` or one set a batch, ``(batches, 1, K, DIM)``.
        u: inputs.
        v: their views.
    """
    fu, fv = (u * theta).sum(-1), (v * theta).sum(-1)
    residual = (fu @ fv.mT).softmax(-1) - torch.eye(u.shape[1], dtype=u.dtype)
    return ((residual @ fv)[..., None] * u).sum(1) + ((residual.mT @ fu)[..., None] * v).sum(1)


def drift(theta: Tensor, grad: Tensor) -> Tensor:
    """Return how fast the angle between theta and its feature changes under gradient descent, in radians.

    Weight decay is radial, and does not turn theta.
    """
    norm = theta.norm()
    cosine = theta[0] / norm
    return (grad[:, 0] / norm - theta[0] * (grad @ theta) / norm**3) / (1 - cosine**2).sqrt()


def extractor(norm: float, cosine: float) -> Tensor:
    """Return an extractor of a norm, at an angle to its feature."""
    theta = torch.zeros(DIM, dtype=torch.float64)
    theta[0], theta[1] = norm * cosine, norm * math.sqrt(1 - cosine**2)
    return theta


def lemma(generator: torch.Generator, samples: int = 4_000_000) -> list[dict[str, float]]:
    """Compare the error of the best linear classifier of a feature's sign with ``arccos(|cos|) / pi`` (lemma E.1)."""
    u = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    rows = []
    for cosine in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
        feature = cosine * u[:, 0] + math.sqrt(1 - cosine**2) * u[:, 1]
        error = ((feature > 0) != (u[:, 0] > 0)).double().mean().item()
        rows.append({"cosine": cosine, "measured": error, "predicted": math.acos(cosine) / math.pi})
    return rows


def one_step(
    norm: float, cosine: float, other: float, batches: int, generator: torch.Generator, alpha: float = 0.9
) -> dict[str, Any]:
    """Measure the drift of a feature's angle for each degree to which the other one is kept, on common random numbers.

    Args:
        norm: of the extractor of the feature that is watched.
        cosine: of its angle to the feature.
        other: norm of the other extractor, which is aligned with its feature.
        batches: how many to average over.
        generator: source of the batches.
        alpha: degree to which the feature that is watched is kept.
    """
    theta = torch.stack([extractor(norm, cosine), extractor(other, 1.0)])
    drifts: dict[float, list[Tensor]] = {kept: [] for kept in ALPHAS}
    for size in [1000] * (batches // 1000):
        u, w = draw(size, generator)
        for kept, found in drifts.items():
            v = view(u, w, torch.tensor([alpha, kept], dtype=torch.float64))
            found.append(drift(theta[0], gradient(theta, u, v)[:, 0]))
    whole = {kept: torch.cat(found) for kept, found in drifts.items()}
    gain = whole[ALPHAS[0]] - whole[ALPHAS[-1]]
    return {
        "norm": norm,
        "cosine": cosine,
        "other": other,
        "drift": {str(kept): values.mean().item() for kept, values in whole.items()},
        "gain": gain.mean().item(),
        "interval": 1.96 * gain.std().item() / math.sqrt(len(gain)),
    }


def train(kept: float, decay: float, generator: torch.Generator, *, runs: int = 64, steps: int = 600) -> dict[str, Any]:
    """Train from a feature that is barely learned and another that is learned, and return where the former ends."""
    theta = torch.stack([extractor(0.2, 0.1), extractor(1.0, 1.0)]).expand(runs, 1, K, DIM).clone()
    alpha, rate = torch.tensor([0.9, kept], dtype=torch.float64), 0.004
    for _ in range(steps):
        u, w = draw(runs, generator)
        theta = (1 - rate * decay) * theta - rate * gradient(theta, u, view(u, w, alpha))[:, None]
    hard = theta[:, 0, 0]
    norm = hard.norm(dim=-1)
    angle = torch.rad2deg(torch.acos((hard[:, 0].abs() / norm).clamp(max=1)))
    half = 1.96 / math.sqrt(runs)
    return {
        "decay": decay,
        "kept": kept,
        "angle": angle.mean().item(),
        "angle_interval": half * angle.std().item(),
        "norm": norm.mean().item(),
        "norm_interval": half * norm.std().item(),
    }


def run_cell(part: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Run a part on random numbers that all its cells have in common."""
    functions: dict[str, Callable[..., Any]] = {"lemma": lemma, "one_step": one_step, "train": train}
    return {"found": functions[part](**options, generator=torch.Generator().manual_seed(seed))}


def draw_gains(results: dict[str, Any], file: Path) -> None:
    """Draw how much faster a feature is learned the less the views keep of the other, and where the long runs end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in results["one_step"]:
        drifts = {float(kept): value for kept, value in row["drift"].items()}
        start = drifts[ALPHAS[0]]
        label = f"norm {row['norm']:g}, cosine {row['cosine']:g}, other's norm {row['other']:g}"
        left.plot(list(drifts), [value / start - 1 for value in drifts.values()], marker=".", label=label)
    left.set(xlabel="how much the views keep of the other feature", ylabel="gain in the angle's speed")
    left.legend(fontsize=5)
    for kept in dict.fromkeys(row["kept"] for row in results["train"]):
        rows = [row for row in results["train"] if row["kept"] == kept]
        right.errorbar(
            [row["decay"] for row in rows],
            [row["norm"] for row in rows],
            [row["norm_interval"] for row in rows],
            label=f"other kept {kept:g}",
            capsize=2,
        )
    right.set(xlabel="weight decay", ylabel="extractor's norm at the end")
    right.legend(fontsize=7)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def report(results: dict[str, Any]) -> str:
    """Return the results as tables."""
    lines = ["| cosine | probe error, measured | arccos / pi |", "| ---: | ---: | ---: |"]
    lines += [f"| {row['cosine']:.2f} | {row['measured']:.4f} | {row['predicted']:.4f} |" for row in results["lemma"]]
    lines += ["", "| norm | cosine | other's norm | " + " | ".join(f"kept {kept:g}" for kept in ALPHAS) + " | gain |"]
    lines += ["| ---: " * (len(ALPHAS) + 4) + "|"]
    for row in results["one_step"]:
        drifts = " | ".join(f"{value:.3f}" for value in row["drift"].values())
        place = f"| {row['norm']:g} | {row['cosine']:g} | {row['other']:g} | "
        lines.append(f"{place}{drifts} | {row['gain']:.3f} ± {row['interval']:.3f} |")
    lines += ["", "| weight decay | other kept | angle, degrees | norm |", "| ---: | ---: | ---: | ---: |"]
    for row in results["train"]:
        angle = f"{row['angle']:.2f} ± {row['angle_interval']:.2f}"
        lines.append(
            f"| {row['decay']:g} | {row['kept']:g} | {angle} | {row['norm']:.3f} ± {row['norm_interval']:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=positive(int), default=20_000, help="batches of each drift, in thousands")
    parser.add_argument("--steps", type=positive(int), default=600, help="steps of the longer run")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=Path, default=Path("linear_theory"), help="folder for the results")
    parser.add_argument("--workers", type=positive(int), default=default_workers(), help="processes")
    options = parser.parse_args(arguments)

    grid = [(0.2, 0.1, other) for other in (0.5, 0.8, 1.0, 1.5)]  # the last one is outside the theorem's conditions
    grid += [(0.05, 0.1, 1.0), (1.0, 0.1, 1.0), (0.2, 0.5, 1.0), (0.2, 0.9, 1.0), (2.0, 0.9, 1.0)]
    parts: list[tuple[str, dict[str, Any]]] = [("lemma", {})]
    parts += [("one_step", {"norm": norm, "cosine": cosine, "other": other}) for norm, cosine, other in grid]
    parts += [("train", {"kept": kept, "decay": decay}) for decay in (0, 10, 40, 55, 60) for kept in (0.99, 0.5, 0.0)]
    scale = {"lemma": {}, "one_step": {"batches": max(1000, options.batches)}, "train": {"steps": options.steps}}
    cells = {
        "-".join([part, *(f"{key}{value:g}" for key, value in place.items())]): (
            part,
            options.seed,
            place | scale[part],
        )
        for part, place in parts
    }
    setting = {"batches": options.batches, "steps": options.steps, "seed": options.seed}
    try:
        found = run_grid(run_cell, cells, options.out, setting, workers=options.workers)
    except OSError as error:  # of another run, or of a full disk
        parser.error(f"argument --out: {error}")
    results: dict[str, Any] = {"setting": setting, "lemma": found.pop("lemma")["found"]}
    for part in ("one_step", "train"):
        results[part] = [cell["found"] for name, cell in found.items() if name.startswith(part)]
    write_json(options.out / "results.json", results)
    draw_gains(results, options.out / "gains.png")
    print(f"\n{report(results)}\n", options.out / "results.json", options.out / "gains.png", sep="\n")


if __name__ == "__main__":
    main()
