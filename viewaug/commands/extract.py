"""Write the viewmaker in a host's checkpoint to a file of its own, which viewaug.load and the other commands read.

The checkpoint is one of Lightning's or solo-learn's, trained with this package, or any that torch.save wrote, such as
those of the authors of Viewmaker Networks. Nothing in it is executed: only tensors and plain values are read.
"""

import argparse
import json
import pickle
import types
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import viewaug
from viewaug.checkpoints import build

_LAST = "deconv3.conv2d.weight"  # of the authors' networks


def main(arguments: Sequence[str] | None = None) -> None:
    """Write it."""
    parser = argparse.ArgumentParser(
        prog="viewaug extract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="such as run.ckpt")
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as viewmaker.safetensors")
    parser.add_argument("--prefix", help="of its parameters, such as model.viewmaker.; default: found")
    parser.add_argument(
        "--config",
        help="JSON of the arguments of viewaug.Viewmaker, for a checkpoint that does not hold them; of the authors' "
        'networks those of Viewmaker.from_reference, such as \'{"budget": 0.05, "clamp": false}\'',
    )
    options = parser.parse_args(arguments)
    try:
        viewmaker = extract(
            options.checkpoint, options.prefix, None if options.config is None else _json(options.config)
        )
        viewaug.save(viewmaker, options.out)
    except (OSError, TypeError, ValueError) as error:
        parser.exit(1, f"viewaug extract: {error}\n")
    print(options.out)


def extract(path: Path, prefix: str | None = None, config: Mapping[str, Any] | None = None) -> viewaug.Viewmaker:
    """Return the viewmaker in a checkpoint.

    Args:
        path: of the checkpoint.
        prefix: of the viewmaker's parameters; None to find it.
        config: the arguments of :class:`viewaug.Viewmaker`, or of :meth:`viewaug.Viewmaker.from_reference` for the
            authors' networks; None for what the checkpoint holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no viewmaker, or none whose arguments are known.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, but there is no such file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", pickle_module=_TENSORS_ONLY, weights_only=False)
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Expected {path} to hold a dictionary, but it holds a {type(checkpoint).__name__}.")
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping):
        raise ValueError(f"Expected `state_dict` in {path} to be a dictionary, but it is a {type(state).__name__}.")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if any(name.endswith(_LAST) for name in tensors):
        return viewaug.Viewmaker.from_reference(tensors, **(config or {}))
    header = checkpoint.get("viewaug")
    if config is not None:
        header = json.dumps({"version": viewaug.Viewmaker.version, "config": config})
    if header is None:
        raise ValueError(
            f"{path} does not say how its viewmaker was made; give --config. It holds "
            f"{', '.join(map(str, checkpoint))}; tensors: {_listed(tensors)}."
        )
    reason: ValueError | None = None
    for start in [prefix] if prefix is not None else [*_prefixes(tensors), None]:
        weights: dict[str, Tensor] = {}  # random views have none
        if start is not None:
            weights = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        try:
            return build(path, {"viewaug": header}, weights)
        except ValueError as error:
            reason = reason or error
    raise ValueError(f"Expected a viewmaker's parameters in {path}, but found {_listed(tensors)}: {reason}")


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what may stand before a viewmaker's parameters, which begin with its generator's."""
    found = [name[: name.index("generator.")] for name in tensors if "generator." in name]
    return sorted(set(found), key=lambda start: (not start.endswith("viewmaker."), len(start)))


def _listed(tensors: Mapping[str, Tensor]) -> str:
    """Name the modules that tensors are of."""
    names = sorted({".".join(name.split(".")[:2]) for name in tensors})
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Expected --config to be JSON, but {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected --config to be a JSON object, but got {text!r}.")
    return found


class _Anything:
    """Stands where an object of a class was that is not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever it was made of."""

    def __setstate__(self, state: Any) -> None:
        """Forget it."""

    def append(self, item: Any) -> None:
        """Forget it."""

    def extend(self, items: Any) -> None:
        """Forget them."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget it."""


class _Unpickler(pickle.Unpickler):
    """Reads tensors and plain values; whatever else a pickle names is left out, and not even imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        return _Anything


_TENSORS_ONLY = types.ModuleType("pickle")
_TENSORS_ONLY.Unpickler = _Unpickler  # type: ignore[attr-defined]
_TENSORS_ONLY.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
_TENSORS_ONLY.UnpicklingError = pickle.UnpicklingError  # type: ignore[attr-defined]
