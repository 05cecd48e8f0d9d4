"""Lightning: learned views for a LightningModule as it is, by a callback."""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewaug import AdversarialAugmentation, BudgetController, Viewmaker, distortion
from viewaug._batches import Spec, describe, find_views, get, is_signal, put
from viewaug._checks import check_count
from viewaug._files import replacing
from viewaug._noise import generator_at
from viewaug.checkpoints import header
from viewaug.joint_optimizer import adamw, step_if_finite
from viewaug.steering import Scorer


def _callback_class() -> type[Any]:
    """Lightning goes by two names with two class trees; the one in use comes first, and either takes the other's."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in (*(name for name in names if name in sys.modules), *names):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise ImportError("viewaug.adapters.lightning needs Lightning: pip install lightning")


class ViewmakerCallback(_callback_class()):  # type: ignore[misc]
    """Trains a LightningModule with learned views, and the viewmaker with it; the module stays as it is.

    It runs the views of each training batch through the viewmaker on their way into ``training_step``, with a reversed
    gradient, and steps the viewmaker by its own Adam whenever the module's optimizer steps, whatever that is. The
    viewmaker becomes a part of the module, ``module.viewmaker``, so that Lightning moves, distributes and saves it; a
    module without it loads such a checkpoint with ``strict=False``. Other callbacks, clipping, schedulers and
    ``global_step`` see the module's own parameters and optimizers only.

    Batches may be a tensor of images; a list or tuple that begins with one, or with a list of views, of any sizes, as
    lightly's ``[[x0, x1], y]``; or a dictionary with ``views`` or ``image``, in which lists, and dictionaries with
    ``image``, may stand. Of any other batch `views` says where they are; one in which several tensors could be views,
    or be targets, is refused without it. Views are in the viewmaker's value range, not normalised: see `mean` and
    `std`, and :func:`viewaug.adapters.lightly.base_transform`.

    It logs ``viewmaker/distortion``, ``viewmaker/grad_norm`` and ``viewmaker/budget``, or without one
    ``viewmaker/strength``.

    Args:
        viewmaker: the viewmaker.
        lr: the viewmaker's learning rate, or a schedule, from the number of optimizer steps so far to the rate. A rate
            that stays while that of the module decays lets the viewmaker win in the end.
        weight_decay: decoupled weight decay of the viewmaker.
        mean: what to subtract from a view, a number or one per channel.
        std: what to divide a view by afterwards, a number or one per channel.
        views: where the views are in a batch: a path of keys, indices, and ``*`` for all, such as ``"views.*.image"``,
            ``"*"`` or ``0``; or a list of paths, such as ``[0, 1]``. None for the layouts above.
        where: where the mask of what may change is in a batch, likewise, for all views the same, or one for each;
            see :meth:`viewaug.Viewmaker.forward`.
        lengths: likewise, for padded samples.
        budget: a schedule, from the number of optimizer steps so far to the budget; a controller, which takes the
            loss of each batch; None for the viewmaker's own.
        freeze_after_epoch: number of epochs after which the viewmaker stops learning and goes on as a fixed
            augmentation; 0 for one that is trained already.
        draw_every_n_epochs: how often to draw views, for TensorBoard or else to ``<default_root_dir>/viewmaker``; 0
            for never.
        spare: a scorer whose answers views are to keep, as of :class:`viewaug.AdversarialAugmentation`.
        target: a scorer whose answers views are to destroy, likewise.
        weight: of these beside the loss.
        seed: of the views' noise, which depends on it, on epoch, batch and rank, and on nothing else: a resumed
            training goes on as if it had not stopped.

    Raises:
        TypeError, ValueError: for an argument, or at training for a batch, of the wrong type or value.
        RuntimeError: for an optimizer that calls a step several times, such as LBFGS.

    Examples:
        >>> callback = ViewmakerCallback(viewaug.Viewmaker(budget=0.05), mean=0.5, std=0.2)
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        viewmaker: Viewmaker,
        *,
        lr: float | Callable[[int], float] = 1e-3,
        weight_decay: float = 0.0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        views: Spec | None = None,
        where: Spec | None = None,
        lengths: Spec | None = None,
        budget: Callable[[int], float] | BudgetController | None = None,
        freeze_after_epoch: int | None = None,
        draw_every_n_epochs: int = 0,
        spare: Scorer | None = None,
        target: Scorer | None = None,
        weight: float = 4.0,
        seed: int = 0,
    ) -> None:
        self.controller = budget if isinstance(budget, BudgetController) else None
        if self.controller is not None:
            if self.controller.viewmaker is not viewmaker:
                raise ValueError("Expected `budget` to control the callback's viewmaker, but it controls another one.")
            budget = None
        if budget is not None and viewmaker.budget is None:
            raise ValueError("Expected no `budget` schedule for a viewmaker without a budget.")
        if budget is not None and not callable(budget):
            raise TypeError(
                f"Expected `budget` to be a BudgetController or a function of the step, not {type(budget).__name__}."
            )
        if freeze_after_epoch is not None:
            check_count("freeze_after_epoch", freeze_after_epoch, 0)
        check_count("draw_every_n_epochs", draw_every_n_epochs, 0)
        check_count("seed", seed, 0)
        self.viewmaker = viewmaker
        self.views, self.budget = views, budget
        self.where, self.lengths = where, lengths
        self.freeze_after_epoch, self.draw_every_n_epochs, self.seed = freeze_after_epoch, draw_every_n_epochs, seed
        self._lr = lr if callable(lr) else None
        self._augmentation = AdversarialAugmentation(
            viewmaker, mean=mean, std=std, spare=spare, target=target, weight=weight
        )
        self._optimizer = adamw(viewmaker.parameters(), lr=lr(0) if callable(lr) else lr, weight_decay=weight_decay)
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the viewmaker a part of the module, and put it before ``training_step``."""
        if getattr(pl_module, "viewmaker", self.viewmaker) is not self.viewmaker:
            raise ValueError("Expected a module without an attribute `viewmaker`, but it has one of its own.")
        before = trainer.callbacks[: trainer.callbacks.index(self)] if self in trainer.callbacks else []
        averaging = [type(one).__name__ for one in before if hasattr(one, "_average_model")]
        if averaging:
            raise ValueError(
                f"Expected the ViewmakerCallback before {averaging[0]}, which copies the module, in `callbacks`."
            )
        pl_module.viewmaker = self.viewmaker
        if stage != "fit":
            return
        if self.freeze_after_epoch == 0:  # before anything is distributed, so that no gradient is waited for
            self._augmentation.freeze()
        self._unwrap(pl_module)
        step = pl_module.training_step

        @functools.wraps(step)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            return step(self._perturb(batch, trainer, pl_module), *args, **kwargs)

        training_step.of_viewmaker = True  # type: ignore[attr-defined]
        pl_module.training_step = training_step

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the viewmaker's parameters out of the module's optimizers; Adam has them."""
        self._augmentation.to(pl_module.device)
        self._optimizer.load_state_dict(self._optimizer.state_dict())  # onto the device, if it was loaded elsewhere
        mine = {id(parameter) for parameter in self.viewmaker.parameters()}
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, torch.optim.LBFGS):
                raise RuntimeError("LBFGS calls a step several times, by which a viewmaker would learn several times.")
            for group in optimizer.param_groups:
                kept = [i for i, parameter in enumerate(group["params"]) if id(parameter) not in mine]
                for name in ("params", "param_names"):
                    if name in group:
                        group[name] = [group[name][i] for i in kept]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze the viewmaker when its time has come."""
        after = self.freeze_after_epoch
        if after and trainer.current_epoch >= after and not self._augmentation.frozen:
            self._augmentation.freeze(keep_graph=True)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Step the viewmaker with the module, on gradients that are complete and not yet clipped."""
        grads = [parameter.grad for parameter in self.viewmaker.parameters() if parameter.grad is not None]
        if grads and not self._augmentation.frozen:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            if scaler is not None:
                torch._foreach_div_(grads, scaler.get_scale())
            norm = torch.nn.utils.get_total_norm(grads)
            pl_module.log("viewmaker/grad_norm", norm, on_step=True, on_epoch=False)
            if self._lr is not None:
                for group in self._optimizer.param_groups:
                    group["lr"] = float(self._lr(trainer.global_step))
            step_if_finite(self._optimizer)
        self._optimizer.zero_grad()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        """Steer the budget by the loss of the batch."""
        passed_over = outputs is None or (isinstance(outputs, dict) and not outputs)  # the step returned None
        if self.controller is None or passed_over:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise TypeError("Expected `training_step` to return a loss, by which to control the budget.")
        # Lightning has divided it.
        self.controller.step(loss * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1))
        pl_module.log("viewmaker/difficulty", self.controller.difficulty, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw views of the last batch."""
        every = self.draw_every_n_epochs
        if not every or (trainer.current_epoch + 1) % every or self._last is None or not trainer.is_global_zero:
            return
        from viewaug.plots import view_grid

        x, views = self._last
        figure = view_grid(x, views, value_range=self.viewmaker.value_range)
        boards = [logger.experiment for logger in trainer.loggers if hasattr(logger.experiment, "add_figure")]
        for board in boards:
            board.add_figure("viewmaker/views", figure, trainer.global_step)
        if not boards:
            folder = Path(trainer.default_root_dir) / "viewmaker"
            with replacing(folder / f"epoch-{trainer.current_epoch}.png") as temporary:
                figure.savefig(temporary, dpi=130)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its ``training_step`` back, as Lightning does not tear down then."""
        self._unwrap(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its ``training_step`` back; the viewmaker stays a part of it."""
        self._unwrap(pl_module)
        self._last = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Say how the viewmaker was made, for ``viewaug extract``."""
        with contextlib.suppress(TypeError, ValueError):  # a perturbation of one's own may have no name
            checkpoint["viewaug"] = header(self.viewmaker)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the viewmaker's Adam; its weights are in the module's state."""
        state = {"optimizer": self._optimizer.state_dict()}
        return state if self.controller is None else {**state, "controller": self.controller.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._optimizer.load_state_dict(state_dict["optimizer"])
        if self.controller is not None and "controller" in state_dict:
            self.controller.load_state_dict(state_dict["controller"])

    @staticmethod
    def _unwrap(pl_module: Any) -> None:
        if hasattr(vars(pl_module).get("training_step"), "of_viewmaker"):
            del pl_module.training_step

    def _perturb(self, batch: Any, trainer: Any, pl_module: Any) -> Any:
        """Replace the views of a batch by views of them; those of one shape in one pass."""
        places = find_views(batch, self.views, self._is_input)
        if not places:
            shape = ", ".join(("B", str(self.viewmaker.channels), *"DHW"[3 - self.viewmaker.dims :]))
            raise TypeError(
                f"Expected `batch` to be a floating point tensor of shape ({shape}), a list or tuple that begins with "
                "one or with a list of such views, or a dictionary with 'views' or 'image', "
                f"but got {describe(batch)}."
            )
        inputs = [get(batch, place) for place in places]
        place = trainer.current_epoch, trainer.fit_loop.batch_idx, trainer.global_rank
        generator = generator_at(self.seed, *place, inputs[0].device)
        if self.budget is not None:
            self.viewmaker.budget = float(self.budget(trainer.global_step))
        spared: dict[str, Any] = {
            name: _of_each(batch, path, len(inputs), name)
            for name, path in (("where", self.where), ("lengths", self.lengths))
            if path is not None
        }
        outputs = self._augmentation.perturb_each(inputs, generator, **spared)
        self._record(inputs, outputs, spared, pl_module)
        views = [self._augmentation.normalise(view) for view in outputs]
        return put(batch, dict(zip(places, views, strict=True)))

    def _record(
        self, inputs: Sequence[Tensor], views: Sequence[Tensor], spared: dict[str, Any], pl_module: Any
    ) -> None:
        with torch.no_grad():
            each = [
                distortion(x, view, **{name: part[i] for name, part in spared.items()})
                for i, (x, view) in enumerate(zip(inputs, views, strict=True))
            ]
            realised = torch.cat(each).mean()
        budget = self.viewmaker.budget
        bound = ("strength", self.viewmaker.strength) if budget is None else ("budget", budget)
        for name, value in (("distortion", realised), bound):
            pl_module.log(f"viewmaker/{name}", value, on_step=True, on_epoch=False)
        if self.draw_every_n_epochs:
            self._last = inputs[0][:8].detach(), [views[0][:8].detach()]

    def _is_input(self, x: Any) -> bool:
        return is_signal(x, self.viewmaker) and x.ndim == self.viewmaker.dims + 2


def _of_each(batch: Any, path: Spec, views: int, name: str) -> list[Tensor]:
    """What a batch holds for each view: one tensor for all, or one for each."""
    found = [get(batch, place) for place in find_views(batch, path, lambda part: isinstance(part, Tensor), name)]
    if len(found) not in (1, views):
        raise ValueError(
            f"Expected `{name}` at {path!r} for all views or for each of {views}, but there are {len(found)}."
        )
    return found * (views if len(found) == 1 else 1)
