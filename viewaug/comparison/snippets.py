"""Code that takes the views of a method into a training loop, ready to run."""

import json
from typing import Any

from viewaug._code import rounded, viewmaker_code
from viewaug.checkpoints import load
from viewaug.comparison.views import TRAINED, Kind, Method
from viewaug.viewmaker import Viewmaker

HOSTS = ("plain", "lightly", "lightning", "solo-learn")
_LOADER = """\
x = torch.from_numpy(np.load({place!r}){key}).float()
loader = DataLoader(TensorDataset(x), batch_size=min({batch}, len(x)), shuffle=True, drop_last=True)
axes = (0, *range(2, x.ndim))
encoder, features = build_encoder(
    {encoder!r}, {channels}, {dims}, mean=x.mean(axes), std=x.std(axes), size=x.shape[2:]
)
"""


def snippet(
    host: str,
    method: Method,
    kind: Kind,
    viewmaker: Viewmaker | None,
    *,
    strength: float | None,
    settings: dict[str, Any],
    place: str = "mine.npz",
) -> str:
    """Return code for a host.

    Args:
        host: one of :data:`HOSTS`.
        method: whose views.
        kind: of the data.
        viewmaker: as it ended, if the method has one.
        strength: of the method.
        settings: of the comparison, `batch`, `temperature`, `lr`, `viewmaker_lr` and `encoder` among them.
        place: of the data.

    Raises:
        ValueError: for another host, or views that it cannot take.
    """
    if host not in HOSTS:
        raise ValueError(f"Expected `host` to be one of {', '.join(HOSTS)}, but got {host!r}.")
    if host == "solo-learn":
        return _solo_learn(method, kind, viewmaker)
    parts = _Parts(method, kind, viewmaker, strength, settings, place)
    return {"plain": _plain, "lightly": _lightly, "lightning": _lightning}[host](parts)


class _Parts:
    """What the hosts' codes have in common."""

    def __init__(
        self,
        method: Method,
        kind: Kind,
        viewmaker: Viewmaker | None,
        strength: float | None,
        settings: dict[str, Any],
        place: str,
    ) -> None:
        self.method, self.viewmaker, self.settings = method, viewmaker, settings
        self.learns = method.learns
        self.views = method.views(kind, strength)
        self.difficulty = self.views.difficulty
        data = {"place": place, "key": "['x']", "channels": kind.channels, "dims": kind.dims}
        if not place.endswith(".npz"):
            data |= {"place": f"{place}/x.npy", "key": ""}
        self.loader = _LOADER.format(**data, batch=settings["batch"], encoder=settings["encoder"])
        self.imports: list[str] = []
        self.make = self._make(kind, strength)

    def _make(self, kind: Kind, strength: float | None) -> str:
        """Return the lines that define the views."""
        if self.viewmaker is not None:
            if self.method.maker in TRAINED:
                code = trained_code(self.method.kinds[0], self.viewmaker)
            else:
                code = f"viewmaker = {viewmaker_code(self.viewmaker)}\n"
            under = self.method.under
            return code if under is None else self._by_hand(under, kind, under.strength) + code
        return self._by_hand(self.method, kind, strength)

    def _by_hand(self, method: Method, kind: Kind, strength: float | None) -> str:
        match method.maker:
            case "none":
                return "augment = torch.nn.Identity()\n"
            case "expert" | "hard":
                name = method.expert(kind)
                self.imports += [
                    f"from viewaug.comparison.expert import {name}",
                    "from viewaug.comparison.views import Kind",
                ]
                short = kind._replace(mean=[*map(rounded, kind.mean)], std=[*map(rounded, kind.std)])
                return f"kind = {short!r}\naugment = {name}(kind, {1.0 if strength is None else strength:g})\n"
        module, _, function = method.kinds[0].partition(":")
        self.imports.append(f"from {module} import {function} as augment")
        return ""

    @property
    def augmentation(self) -> str:
        """The line that makes an augmentation of the viewmaker, if there is one."""
        frozen = ".freeze()" if self.method.maker == "frozen" else ""
        return f"augmentation = AdversarialAugmentation(viewmaker){frozen}\n" if self.viewmaker is not None else ""

    @property
    def note(self) -> str:
        """What the code leaves out."""
        return (
            "# Of four views the pair that is least alike was taken: viewaug.comparison.training.hardest.\n"
            if self.views.count > 2
            else ""
        )


def trained_code(place: str, viewmaker: Viewmaker) -> str:
    """Return the lines that load a trained viewmaker, and set what has changed of it since."""
    before, now = load(place).config, viewmaker.config
    changed = [name for name in ("budget", "strength", "value_range") if before[name] != now[name]]
    lines = [f"viewmaker = load({place!r})", *(f"viewmaker.{name} = {rounded(now[name])!r}" for name in changed)]
    return "\n".join([*lines, ""])


def _head(imports: list[str]) -> str:
    """Return the lines: the standard library's, others', and ours."""

    def place(line: str) -> tuple[bool, bool, str]:
        module = line.split()[1]
        return module.startswith("viewaug"), module != "math", module

    return "\n".join(sorted(imports, key=place)) + "\n\n"


def _optimizer(parts: _Parts) -> str:
    s = parts.settings
    sgd = f"torch.optim.SGD(model.parameters(), lr={s['lr']:g}, momentum=0.9, weight_decay={s['weight_decay']:g})"
    if not parts.learns:
        return f"optimizer = {sgd}\n"
    lines = f"optimizer = JointOptimizer(\n    {sgd},\n    viewmaker.parameters(),\n    lr={s['viewmaker_lr']:g},\n)\n"
    return lines + _controller(parts)


def _controller(parts: _Parts) -> str:
    if parts.difficulty is None:
        return ""
    call = f"BudgetController(viewmaker, target={parts.difficulty:g}, unrelated=math.log(2 * loader.batch_size - 1))"
    return f"controller = {call}\n"


def _loop(parts: _Parts) -> str:
    pair = "augmentation.views(x)" if parts.viewmaker is not None else "(augment(x), augment(x))"
    if parts.method.under is not None:
        pair = "(augmentation(augment(x)), augmentation(augment(x)))"
    step = "    controller.step(loss)\n" if parts.difficulty is not None else ""
    return (
        f"for (x,) in loader:\n    z0, z1 = (model(view) for view in {pair})\n    loss = criterion(z0, z1)\n"
        f"    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n{step}"
    )


def _imports(parts: _Parts) -> list[str]:
    return [
        "import numpy as np",
        "import torch",
        "from torch.utils.data import DataLoader, TensorDataset",
        "from viewaug.comparison.encoders import build_encoder",
        *parts.imports,
        *(["import math"] if parts.difficulty is not None else []),
    ]


def _ours(parts: _Parts, *names: str) -> list[str]:
    built = "load" if parts.method.maker in TRAINED else "Viewmaker"
    used = [built, *names] if parts.viewmaker is not None else []
    used += ["BudgetController"] if parts.difficulty is not None else []
    used += ["JointOptimizer"] if parts.learns and "AdversarialAugmentation" in names else []
    return [f"from viewaug import {', '.join(sorted(used))}"] if used else []


def _plain(parts: _Parts) -> str:
    imports = _imports(parts)
    temperature = parts.settings["temperature"]
    criterion = (
        "def criterion(z0, z1):  # NT-Xent\n"
        "    z = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)\n"
        f"    alike = (z @ z.T / {temperature:g}).fill_diagonal_(-torch.inf)\n"
        "    return torch.nn.functional.cross_entropy(alike, torch.arange(len(z)).roll(len(z0)))\n\n\n"
    )
    model = (
        "head = torch.nn.Sequential(torch.nn.Linear(features, features), torch.nn.ReLU(), "
        "torch.nn.Linear(features, features))\nmodel = torch.nn.Sequential(encoder, head)\n"
    )
    return "".join(
        [
            _head(imports + _ours(parts, "AdversarialAugmentation")),
            parts.loader,
            model,
            parts.note,
            parts.make,
            parts.augmentation,
            _optimizer(parts),
            "\n\n",
            criterion,
            _loop(parts),
        ]
    )


def _lightly(parts: _Parts) -> str:
    imports = _imports(parts)
    imports += ["from lightly.loss import NTXentLoss", "from lightly.models.modules import SimCLRProjectionHead"]
    return "".join(
        [
            _head(imports + _ours(parts, "AdversarialAugmentation")),
            parts.loader,
            "model = torch.nn.Sequential(encoder, SimCLRProjectionHead(features, features, features))\n",
            f"criterion = NTXentLoss({parts.settings['temperature']:g})\n",
            parts.note,
            parts.make,
            parts.augmentation,
            _optimizer(parts),
            "\n",
            _loop(parts),
        ]
    )


def _lightning(parts: _Parts) -> str:
    s = parts.settings
    imports = _imports(parts)
    imports += [
        "import lightning.pytorch as pl",
        "from lightly.loss import NTXentLoss",
        "from lightly.models.modules import SimCLRProjectionHead",
    ]
    callback = ""
    pair = "batch" if parts.viewmaker is not None else "[augment(x) for x in batch]"
    twice = "[torch.stack([row[0] for row in rows])] * 2"
    if parts.method.under is not None:
        twice = f"[augment(x) for x in {twice}]"
    if parts.viewmaker is not None:
        imports.append("from viewaug.adapters.lightning import ViewmakerCallback")
        budget = ", budget=controller" if parts.difficulty is not None else ""
        frozen = ", freeze_after_epoch=0" if parts.method.maker == "frozen" else ""
        options = f"lr={s['viewmaker_lr']:g}, views='*'{budget}{frozen}"
        callback = f"{_controller(parts)}callback = ViewmakerCallback(viewmaker, {options})\n"
    module = (
        "\n\nclass SimCLR(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.model = torch.nn.Sequential(encoder, SimCLRProjectionHead(features, features, features))\n"
        f"        self.criterion = NTXentLoss({s['temperature']:g})\n\n"
        "    def training_step(self, batch, index):  # two views\n"
        f"        z0, z1 = map(self.model, {pair})\n"
        "        return self.criterion(z0, z1)\n\n"
        "    def configure_optimizers(self):\n"
        f"        return torch.optim.SGD(self.parameters(), lr={s['lr']:g}, momentum=0.9, "
        f"weight_decay={s['weight_decay']:g})\n\n\n"
    )
    callbacks = "callbacks=[callback], " if callback else ""
    collate = f"loader.collate_fn = lambda rows: {twice}\n"
    return "".join(
        [
            _head(imports + _ours(parts)),
            parts.loader,
            collate,
            parts.note,
            parts.make,
            callback,
            module,
            f"trainer = pl.Trainer(max_epochs=1, {callbacks}logger=False, enable_checkpointing=False)\n",
            "trainer.fit(SimCLR(), loader)\n",
        ]
    )


def _solo_learn(method: Method, kind: Kind, viewmaker: Viewmaker | None) -> str:
    """Return the node of solo-learn's configuration; it reads JSON as YAML."""
    if kind.dims != 2 or viewmaker is None:
        what = f"{kind.dims} dims" if viewmaker is not None else f"{method.name}, views without a viewmaker"
        raise ValueError(f"Expected views of images by a viewmaker for solo-learn, but got {what}.")
    config = viewmaker.config
    names = ["channels", "budget", "units", "value_range", "generator", "perturbation"]
    group = "frozen" if method.maker == "frozen" else "default"
    lines = ["defaults:", f"  - viewmaker: {group}  # viewaug", "", "viewmaker:"]
    if method.maker in TRAINED:
        config, names = config | {"checkpoint": method.kinds[0]}, ["budget", "checkpoint"]
    lines += [f"  {name}: {json.dumps(rounded(config[name]))}" for name in names]
    return "\n".join([*lines, "", "hydra:", "  searchpath: [pkg://viewaug.adapters.solo_learn.conf]  # viewaug", ""])
