"""Save and load viewmakers: safetensors weights and a JSON configuration, in one file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from viewaug._files import write_tensors
from viewaug.originals import OriginalViewmaker
from viewaug.viewmaker import Viewmaker, check_viewmaker

#: The file of a folder, and the folder of those folders that come with the package.
FILE, TRAINED = "viewmaker.safetensors", Path(__file__).parent / "trained"
_LARGEST = 100_000  # of an option that is a number of channels, pixels, ...


def save(viewmaker: Viewmaker, path: str | os.PathLike[str]) -> None:
    """Save a viewmaker, weights and configuration, as one safetensors file; the configuration is JSON in its header.

    Args:
        viewmaker: what to save.
        path: where to. The file is replaced in one go: an interruption leaves the old one.

    Raises:
        TypeError: if `viewmaker` is not a :class:`viewaug.Viewmaker`, or has an option that is no plain value.
        ValueError: if its perturbation is of a class without a name in :data:`viewaug.perturbations.PERTURBATIONS`.
        OSError: if the file cannot be written, as on a full disk.

    Examples:
        >>> path = getfixture("tmp_path") / "viewmaker.safetensors"
        >>> save(viewaug.Viewmaker(channels=1, budget=0.1), path)
        >>> load(path).budget
        0.1
    """
    check_viewmaker(viewmaker)
    weights = {name: value.detach().cpu() for name, value in viewmaker.state_dict().items()}
    write_tensors(path, weights, {"format": "pt", "viewaug": header(viewmaker)})


def header(viewmaker: Viewmaker) -> str:
    """Return what builds a viewmaker again, but for its weights, as JSON; checkpoints of hosts hold it as ``viewaug``.

    Raises:
        TypeError: if it has an option that is no plain value.
        ValueError: if its perturbation is of a class without a name.
    """
    try:
        return json.dumps({"version": viewmaker.version, "config": viewmaker.config})
    except TypeError as error:
        raise TypeError(
            f"Expected options that JSON can hold, but {error}; give an `op` of kornia's by its name and arguments."
        ) from error


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Viewmaker:
    """Load a viewmaker that :func:`save` saved. Nothing in the file is executed.

    Args:
        path: the file; a folder that :meth:`viewaug.Viewmaker.save_pretrained` wrote; or the name of a viewmaker that
            comes with the package, which goes before a file of the same name: give that by its full path.
        device: where to put the viewmaker.

    Raises:
        FileNotFoundError: if there is no such file; the error lists the names.
        ValueError: if the file is truncated, not a viewmaker's, of an unknown version, or lacks a parameter.

    Examples:
        >>> path = getfixture("tmp_path") / "viewmaker.safetensors"
        >>> save(viewaug.Viewmaker(channels=12, dims=1, value_range=None), path)
        >>> x = torch.randn(2, 12, 1000)
        >>> load(path)(x).shape
        torch.Size([2, 12, 1000])
        >>> load("smartwatch").dims
        1
    """
    path = TRAINED / path if os.fspath(path) in shipped() else Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected `path` to be a file, a folder of one, or one of {', '.join(shipped())}, "
            f"but found none at {path}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file: {error}.") from error
    return build(path, metadata, weights).to(device)


def shipped() -> list[str]:
    """Return the names of the trained viewmakers that come with the package.

    Examples:
        >>> "digits-on-photographs" in shipped()
        True
    """
    return sorted(file.parent.name for file in TRAINED.glob(f"*/{FILE}"))


def build(path: Path, metadata: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Viewmaker:
    """Build a viewmaker of a header and of weights.

    Args:
        path: where they are from, for errors.
        metadata: holds the header under ``viewaug``.
        weights: by their names in the viewmaker.

    Raises:
        ValueError: if they do not make one.
    """
    kind, config = _read_header(path, metadata)
    for name, value in config.items():
        # So many modules, or so long a list, would be made before any shape could be compared.
        most = len(weights) if name in ("depth", "blocks") else _LARGEST
        if isinstance(value, int) and value > most:
            raise ValueError(f"{path} has `{name}` of {value}, which is more than its weights can be for.")
    try:
        try:
            with torch.device("meta"):  # a small file may say that the network is huge: nothing is allocated for it yet
                expected = kind(**config).state_dict()
        except RuntimeError:  # kornia's augmentations look at values
            expected = kind(**config).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} has a configuration that builds no viewmaker: {error}") from error
    for problem, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has an unknown", weights.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"{path} {problem} parameter: {', '.join(sorted(names))}.")
    for name, value in weights.items():
        if not value.is_floating_point():
            raise ValueError(f"{path} has {name} of {value.dtype}, not floating point.")
        if value.shape != expected[name].shape:
            raise ValueError(f"{path} has {name} of shape {tuple(value.shape)}, not {tuple(expected[name].shape)}.")
    viewmaker = kind(**config)
    if weights:
        viewmaker.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    return viewmaker


def _read_header(path: Path, metadata: Mapping[str, Any]) -> tuple[type[Viewmaker], dict[str, Any]]:
    """Return the class that a file's version needs, and its arguments."""
    try:
        header = json.loads(metadata["viewaug"])
        version, config = header["version"], header["config"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not a viewmaker's: its header has no 'viewaug' entry.") from None
    if version not in (1, Viewmaker.version) or isinstance(version, bool):
        raise ValueError(f"{path} has version {version}; this viewaug reads versions 1 and {Viewmaker.version}.")
    if not isinstance(config, dict):
        raise ValueError(f"{path} has a config that is no JSON object.")
    if version == Viewmaker.version:
        return (OriginalViewmaker if config.get("constraint") == "rescale_coefficients" else Viewmaker), config
    from viewaug.version1 import Viewmaker1

    return Viewmaker1, config
