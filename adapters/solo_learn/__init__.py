"""solo-learn: learned views for any of its methods, by two lines of configuration or one of Python."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

import viewaug
from viewaug import AdversarialAugmentation, BudgetController, JointOptimizer, Viewmaker
from viewaug._noise import generator_at
from viewaug.checkpoints import header

__all__ = ["Settings", "Swap", "wrap"]


@dataclass(frozen=True)
class Settings:
    """The node ``viewmaker`` of a configuration; ``conf/viewmaker/default.yaml`` says what each key means."""

    budget: float | None = 0.05
    generator: str = "fast"
    perturbation: Any = "additive"
    constraint: Any = "fit"
    units: Any = "input"
    value_range: Any = (0.0, 1.0)
    channels: int = 3
    lr: float = 1e-3
    weight_decay: float = 0.0
    crops: Any = "all"
    mean: Any = None
    std: Any = None
    checkpoint: str | None = None
    freeze_after_epoch: int | None = None
    difficulty: float | None = None
    unrelated: float | None = None

    @classmethod
    def of(cls, cfg: Any) -> "Settings":
        """Read the settings of a solo-learn configuration, in which the node may be missing."""
        node = cfg.get("viewmaker") or {}
        known = [field.name for field in fields(cls)]
        unknown = [key for key in node if key not in known]
        if unknown:
            raise ValueError(f"Expected the keys of `viewmaker` to be of {', '.join(known)}, but got {unknown[0]!r}.")
        return cls(**{key: _plain(node[key]) for key in node})

    def build(self) -> Viewmaker:
        """Make or load the viewmaker."""
        if self.checkpoint is not None:
            viewmaker = viewaug.load(self.checkpoint)
            if viewmaker.budget is not None:
                viewmaker.budget = self.budget
            return viewmaker
        return Viewmaker(
            self.channels,
            budget=self.budget,
            generator=self.generator,
            perturbation=self.perturbation,
            constraint=self.constraint,
            units=self.units,
            value_range=self.value_range,
        )

    def control(self, viewmaker: Viewmaker) -> BudgetController | None:
        """Make the budget's controller, if one is asked for."""
        if self.difficulty is None:
            return None
        if self.unrelated is None:
            raise ValueError("Expected `viewmaker.unrelated`, the loss for unrelated embeddings, with a `difficulty`.")
        return BudgetController(viewmaker, target=self.difficulty, unrelated=self.unrelated)


def wrap(method: type[Any]) -> type[Any]:
    """Return a method of solo-learn that trains on learned views, and the viewmaker with it.

    The crops of a batch, which solo-learn has normalised in the loader, are returned to their value range, perturbed
    and normalised again on their way into ``training_step``; the gradient is reversed behind them, and the viewmaker
    is stepped by Adam within solo-learn's one optimizer. All else, evaluation included, is the method's own. The name
    of the run gets the suffix ``-viewmaker``, so that no checkpoint is taken for one of a run without.

    MAE's target stays the clean image. Where crops have roles, as ReSSL's, ``viewmaker.crops`` chooses among them.

    Args:
        method: a class of ``solo.methods``, such as ``SimCLR``; its configuration may have a node `viewmaker`.

    Raises:
        TypeError: if `method` lacks what solo-learn's methods have.

    Examples:
        >>> from viewaug.adapters.solo_learn import wrap
        >>> wrap(torch.nn.Linear)
        Traceback (most recent call last):
        TypeError: Expected `method` to be one of solo-learn 1.0.6 or newer, but Linear has no training_step.
    """
    for hook in ("training_step", "learnable_params", "_OPTIMIZERS"):
        if not hasattr(method, hook):
            raise TypeError(
                f"Expected `method` to be one of solo-learn 1.0.6 or newer, but {method.__name__} has no {hook}."
            )

    class Wrapped(method):
        def __init__(self, cfg: Any, *args: Any, **kwargs: Any) -> None:
            settings = Settings.of(cfg)
            viewmaker = settings.build()
            if not str(cfg.name).endswith("-viewmaker"):
                cfg.name = f"{cfg.name}-viewmaker"
            super().__init__(cfg, *args, **kwargs)
            _check_channels(self.backbone, viewmaker)
            self.viewmaker = viewmaker
            self._settings, self._seed, self._rebuilds = settings, int(cfg.get("seed") or 0), cfg.method == "mae"
            # In a tuple, as the viewmaker is registered already.
            self._augmentation = (AdversarialAugmentation(viewmaker),)
            self._controller = settings.control(viewmaker)
            self._statistics: list[tuple[Tensor, Tensor]] = []
            if settings.freeze_after_epoch == 0:
                self._augmentation[0].freeze()
            else:
                self._OPTIMIZERS = {name: JointOptimizer.of(kind) for name, kind in method._OPTIMIZERS.items()}

        @property
        def learnable_params(self) -> list[dict[str, Any]]:
            groups = super().learnable_params
            if self._settings.freeze_after_epoch == 0:
                return groups
            mine = {"lr": self._settings.lr, "weight_decay": self._settings.weight_decay, "viewmaker": True}
            return [*groups, {"name": "viewmaker", "params": list(self.viewmaker.parameters()), **mine}]

        def training_step(self, batch: Sequence[Any], batch_idx: int) -> Any:
            index, crops, *rest = batch
            crops = [crops] if isinstance(crops, Tensor) else list(crops)
            views = self._views(crops, batch_idx)
            if self._rebuilds:
                self._waiting = views  # for base_training_step, so that the target is made of the crops
                views = crops
            out = super().training_step([index, views, *rest], batch_idx)
            if self._controller is not None:
                self._controller.step(out["loss"] if isinstance(out, dict) else out)
                if self.viewmaker.budget is None:
                    self.log("viewmaker/strength", self.viewmaker.strength)
                self.log("viewmaker/difficulty", self._controller.difficulty)
            return out

        def base_training_step(self, X: Tensor, targets: Tensor) -> Any:  # noqa: N803 - solo-learn's name
            return super().base_training_step(self._waiting.pop(0) if self._rebuilds else X, targets)

        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            after = self._settings.freeze_after_epoch
            if after and self.current_epoch >= after:
                self._augmentation[0].freeze(keep_graph=True)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            super().on_before_optimizer_step(optimizer)
            if self._augmentation[0].frozen:  # a gradient of zero would go on moving it, by its momentum
                for parameter in self.viewmaker.parameters():
                    parameter.grad = None
            grads = [parameter.grad for parameter in self.viewmaker.parameters() if parameter.grad is not None]
            if grads:
                self.log("viewmaker/grad_norm", torch.nn.utils.get_total_norm(grads))

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            super().on_save_checkpoint(checkpoint)
            checkpoint["viewaug"] = header(self.viewmaker)  # for `viewaug extract`
            if self._controller is not None:
                checkpoint["viewmaker_budget"] = self._controller.state_dict()

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            super().on_load_checkpoint(checkpoint)
            if self._controller is not None and "viewmaker_budget" in checkpoint:
                self._controller.load_state_dict(checkpoint["viewmaker_budget"])

        def _views(self, crops: list[Tensor], batch_idx: int) -> list[Tensor]:
            if not self._statistics:
                self._statistics = _statistics(self, len(crops))
            place = self.current_epoch, batch_idx, self.global_rank
            chosen = _chosen(self._settings.crops, len(crops), self.num_large_crops)
            statistics = [[value.to(crops[i]) for value in self._statistics[i]] for i in chosen]
            inputs = [crops[i] * std + mean for i, (mean, std) in zip(chosen, statistics, strict=True)]
            generator = generator_at(self._seed, *place, crops[0].device)
            views = self._augmentation[0].perturb_each(inputs, generator)
            with torch.no_grad():
                changed = torch.cat([viewaug.distortion(x, view) for x, view in zip(inputs, views, strict=True)])
            self.log("viewmaker/distortion", changed.mean())
            if self.viewmaker.budget is not None:
                self.log("viewmaker/budget", self.viewmaker.budget)
            outputs = list(crops)
            for i, view, (mean, std) in zip(chosen, views, statistics, strict=True):
                outputs[i] = (view - mean) / std
            return outputs

    Wrapped.__name__ = Wrapped.__qualname__ = f"{method.__name__}WithViewmaker"
    return Wrapped


class Swap:
    """A Hydra callback that wraps the method of a job for as long as the job runs.

    The configuration group ``viewmaker`` names it. Hydra turns an error in a callback into a warning; so that no run
    goes on without learned views, an error is raised where the method is built.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, Any], str, Any]] = []

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Wrap the method that the configuration names."""
        from solo.methods import METHODS

        name = config.get("method")
        if name in METHODS:
            self._undo.append((METHODS, name, METHODS[name]))
            METHODS[name] = _wrap_or_refuse(METHODS[name])

    def on_job_end(self, config: Any, **kwargs: Any) -> None:
        """Undo it."""
        while self._undo:
            methods, name, method = self._undo.pop()
            methods[name] = method

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Hydra calls all of these."""

    on_run_start = on_run_end = on_multirun_start = on_multirun_end = on_compose_config = _nothing


def _wrap_or_refuse(method: type[Any]) -> type[Any]:
    try:
        return wrap(method)
    except TypeError as error:
        reason = error

    class Refused(method):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise reason

    return Refused


def _plain(value: Any) -> Any:
    """A value without OmegaConf's containers, which are a mapping's or a list's."""
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if not isinstance(value, str) and hasattr(value, "__iter__") else value


def _check_channels(backbone: nn.Module, viewmaker: Viewmaker) -> None:
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if viewmaker.dims != 2 or (first is not None and first.in_channels != viewmaker.channels):
        wanted = "" if first is None else f" of {first.in_channels} channels, as the backbone's"
        raise ValueError(
            f"Expected a viewmaker for images{wanted}, but got one of {viewmaker.channels} channels and "
            f"{viewmaker.dims} dims; see `viewmaker.channels` and `viewmaker.checkpoint`."
        )


def _chosen(crops: Any, count: int, large: int) -> list[int]:
    """The indices of the crops to perturb."""
    if crops == "all":
        return list(range(count))
    if crops == "large":
        return list(range(min(large, count)))
    if not isinstance(crops, list) or not crops or not all(isinstance(i, int) and 0 <= i < count for i in crops):
        raise ValueError(f"Expected `viewmaker.crops` to be all, large or indices below {count}, but got {crops}.")
    return sorted(set(crops))


def _statistics(module: Any, count: int) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation by which each crop is normalised: as configured, or of the training loader."""
    settings = module._settings
    found: list[tuple[Any, Any]] = []
    if settings.mean is not None and settings.std is not None:
        found = [(settings.mean, settings.std)] * count
    else:
        pipelines = getattr(getattr(module.trainer.train_dataloader, "dataset", None), "transform", None)
        for pipeline in getattr(pipelines, "transforms", ()):
            last = getattr(getattr(pipeline, "transform", None), "transforms", [None])[-1]
            if hasattr(last, "mean") and hasattr(last, "std"):
                found += [(last.mean, last.std)] * pipeline.num_crops
    if len(found) != count:
        raise ValueError(
            "Expected to find by which mean and standard deviation the loader normalises each crop, but it is not one "
            "of solo-learn's own; give `viewmaker.mean` and `viewmaker.std`."
        )
    return [(_column(mean), _column(std)) for mean, std in found]


def _column(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
