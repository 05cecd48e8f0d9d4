"""Linear probes: classifiers of several labels on a frozen encoder, which also score views."""

import copy
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from viewaug._checks import check_choice
from viewaug._files import replacing

Scorer = Callable[[Tensor], Mapping[str, Tensor]]


class Probe(nn.Module):
    """Linear classifiers, one a task, on a frozen encoder.

    Args:
        encoder: maps inputs to features, ``(B, F)``.
        heads: for each task's name a layer from features to logits.

    Shape:
        - input: what the encoder takes.
        - output: for each task's name ``(B, classes)``.

    Examples:
        >>> x, label = torch.rand(100, 2, 4), torch.arange(100) % 2
        >>> x[:, 1] += label[:, None]
        >>> probe = Probe.fit(nn.Flatten(), x, {"parity": label})
        >>> bool((probe(x)["parity"].argmax(1) == label).float().mean() > 0.9)
        True
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        if not heads:
            raise ValueError("Expected `heads` of at least one task, but got none.")
        self.encoder, self.tasks = encoder, tuple(heads)
        self.heads = nn.ModuleList(heads.values())  # no ModuleDict: a task may be called "type"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.encoder(x)
        return {task: head(features) for task, head in zip(self.tasks, self.heads, strict=True)}

    @classmethod
    def fit(cls, encoder: nn.Module, x: Tensor, labels: Mapping[str, Tensor], *, batch: int = 256) -> "Probe":
        """Fit logistic regressions to the standardised features of a copy of an encoder, in evaluation mode.

        Args:
            encoder: maps ``(B, *)`` to features, ``(B, F)``.
            x: the inputs, ``(N, *)``.
            labels: for each task's name ``(N,)``, integers from 0; every class has to occur.
            batch: how many inputs the encoder takes at once.
        """
        for task, label in labels.items():
            _check_labels(task, label, len(x))
        frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
        with torch.no_grad():
            features = torch.cat([frozen(part) for part in x.split(batch)])
        if features.ndim != 2:
            raise ValueError(f"Expected `encoder` to return features (B, F), but got {tuple(features.shape)}.")
        return cls(frozen, {task: _logistic_regression(features, label) for task, label in labels.items()})

    def only(self, *tasks: str) -> "Probe":
        """Return the probe of some of the tasks, on the same encoder.

        Raises:
            ValueError: if there is no such task.
        """
        for task in tasks:
            check_choice("tasks", task, self.tasks)
        return Probe(self.encoder, {task: self.heads[self.tasks.index(task)] for task in tasks})  # type: ignore[misc]

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Mapping[str, Tensor], *, batch: int = 256) -> dict[str, float]:
        """Return the share of inputs whose label is the likeliest, for each task's name."""
        logits = [self(part) for part in x.split(batch)]
        likeliest = {task: torch.cat([part[task] for part in logits]).argmax(1) for task in labels}
        return {task: (likeliest[task] == label.to(x.device)).float().mean().item() for task, label in labels.items()}


def correct_probability(scorer: Scorer, x: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the probability that a scorer gives to the correct label of each input, ``(B,)`` for each task's name.

    Args:
        scorer: a :class:`Probe`, or anything else that returns logits, ``(B, classes)``, for each task's name.
        x: the inputs or views.
        labels: ``(B,)`` for each task's name.

    Raises:
        ValueError: if a task is not the scorer's, or a label is none of its classes.

    Examples:
        >>> scorer = lambda x: {"sign": torch.stack([-x[:, 0], x[:, 0]], 1)}
        >>> correct_probability(scorer, torch.tensor([[0.0], [9.0]]), {"sign": torch.tensor([1, 1])})
        {'sign': tensor([0.5000, 1.0000])}
    """
    with torch.no_grad():
        logits = scorer(x)
    found = {}
    for task, label in labels.items():
        if task not in logits:
            raise ValueError(f"Expected `labels` of the scorer's tasks, {', '.join(logits)}, but got {task!r}.")
        classes = logits[task].shape[-1]
        if not bool(((label >= 0) & (label < classes)).all()):
            raise ValueError(f"Expected `labels` of {task!r} to be below {classes}, the scorer's number of classes.")
        found[task] = logits[task].float().softmax(-1).gather(1, label.to(x.device).long()[:, None]).squeeze(1)
    return found


def save_probe(probe: nn.Module, path: str | os.PathLike[str], x: Tensor) -> None:
    """Write a probe, its encoder included, as an exported program (``torch.export``), to be read without its code.

    Args:
        probe: a :class:`Probe`, or another module that returns logits for each task's name.
        path: file to write, ending in ".pt2".
        x: inputs to trace it with; their number is free later.
    """
    if not str(path).endswith(".pt2"):
        raise ValueError(f"Expected `path` to end in .pt2, but got {path}.")
    plain = copy.deepcopy(probe).eval().cpu().to(memory_format=torch.contiguous_format)  # as the file holds weights
    two = torch.cat([x[:1].cpu()] * 2)  # of one input, the number would be taken for fixed
    program = torch.export.export(plain, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    written = io.BytesIO()  # a full disk makes PyTorch's own writing to a file end without saying so
    torch.export.save(program, written)
    with replacing(path) as temporary:
        temporary.write_bytes(written.getbuffer())


def load_probe(path: str | os.PathLike[str], *, trust: bool = False) -> nn.Module:
    """Read a probe that :func:`save_probe` wrote.

    Args:
        path: the file.
        trust: whether you know where it is from. PyTorch may unpickle parts of an exported program, which can run
            whatever its author wanted.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an exported program, or not trusted.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a probe at {path}, but there is no such file.")
    if not trust:
        raise ValueError(
            f"Expected `trust=True`, or --trust, for {path}: reading an exported program can run code that is in it."
        )
    try:
        with zipfile.ZipFile(path) as opened:  # PyTorch would log a warning with a trace of other archives
            if not any(name.endswith("archive_format") for name in opened.namelist()):
                raise ValueError("it is another kind of archive")
        return torch.export.load(path).module()
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{path} is not a probe: {error}") from error


def _check_labels(task: str, label: Tensor, count: int) -> None:
    if label.shape != (count,) or label.is_floating_point():
        raise ValueError(
            f"Expected `labels` of {task!r} to be {count} integers, but got {tuple(label.shape)}, {label.dtype}."
        )
    classes = label.unique()
    if len(classes) < 2 or not torch.equal(classes, torch.arange(len(classes)).to(classes)):
        raise ValueError(f"Expected `labels` of {task!r} to hold every class from 0, at least two, but got {classes}.")


def _logistic_regression(features: Tensor, label: Tensor) -> nn.Linear:
    """Fit it on standardised features, and fold the standardisation into its weights."""
    # In double precision on the CPU; on others, some of which have none, in single, by the device itself.
    wide = features.double() if features.device.type == "cpu" else features.float()
    mean, std = wide.mean(0), wide.std(0, correction=0)
    scale = torch.where(std > 0, 1 / std, 0)  # a dead feature says nothing
    fit = _by_sklearn if features.device.type == "cpu" else _by_torch
    weight, bias = fit((wide - mean) * scale, label.to(features.device))
    if len(bias) == 1:  # of two classes, the logit of the second against the first
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    weight = weight * scale
    head = nn.Linear(weight.shape[1], weight.shape[0], device=features.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias - weight @ mean)
    return head.requires_grad_(False)


def _by_sklearn(standard: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("Probe.fit needs scikit-learn: pip install 'viewaug[diagnose]'") from error
    fitted = LogisticRegression(max_iter=1000).fit(standard.numpy(), label.numpy())
    return torch.from_numpy(fitted.coef_).to(standard), torch.from_numpy(fitted.intercept_).to(standard)


@torch.enable_grad()
def _by_torch(standard: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Lower what scikit-learn lowers, the sum of cross-entropies and half of the squared weights, by L-BFGS as well."""
    classes, count = int(label.max()) + 1, len(label)
    rows = 1 if classes == 2 else classes
    weight = standard.new_zeros(rows, standard.shape[1]).requires_grad_()
    bias = standard.new_zeros(rows).requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-4,  # scikit-learn's, of the mean over samples
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        logits = standard @ weight.T + bias
        logits = torch.cat([torch.zeros_like(logits), logits], 1) if rows == 1 else logits
        loss = nn.functional.cross_entropy(logits, label) + weight.square().sum() / (2 * count)
        loss.backward()
        return loss

    lbfgs.step(closure)  # type: ignore[no-untyped-call, unused-ignore]
    return weight.detach(), bias.detach()
