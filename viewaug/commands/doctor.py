"""Say what is installed, on what machine, and whether it works, for reports of faults; it takes a second or two."""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version

import torch

import viewaug


def main(arguments: Sequence[str] | None = None) -> int:
    """Print it; return 1 if the self-test fails."""
    argparse.ArgumentParser(prog="viewaug doctor", description=__doc__).parse_args(arguments)
    print(f"viewaug        {viewaug.__version__}")
    print(f"Python         {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"CPU            {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(f"accelerator    {_accelerator()}")
    for name in _packages():
        print(f"{name:14} {_version(name)}")
    started = time.perf_counter()
    try:
        _try()
    except Exception as error:  # whatever it is, it is to be reported
        print(f"self-test      failed: {type(error).__name__}: {error}")
        return 1
    print(f"self-test      passed in {time.perf_counter() - started:.1f} seconds")
    return 0


def _accelerator() -> str:
    if not torch.accelerator.is_available():
        return "none"
    kind = torch.accelerator.current_accelerator()
    return f"{torch.accelerator.device_count()} x {kind.type if kind is not None else 'unknown'}"


def _packages() -> list[str]:
    """Return the names of all packages that this one can use, those that it needs first."""
    names = [requirement.split(";")[0].split("[")[0] for requirement in requires("viewaug") or ()]
    bare = [name.rstrip("0123456789.<>=!~, ") for name in names]
    return [name for name in dict.fromkeys(bare) if name != "viewaug"]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _try() -> None:
    """Take a step of both players."""
    torch.manual_seed(0)
    encoder, viewmaker = torch.nn.Linear(3 * 16 * 16, 8), viewaug.Viewmaker(3, budget=0.05)
    augmentation = viewaug.AdversarialAugmentation(viewmaker)
    optimizer = viewaug.JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.1), viewmaker.parameters())
    before = [parameter.detach().clone() for parameter in viewmaker.parameters()]
    x = torch.rand(8, 3, 16, 16)
    one, two = augmentation.views(x)
    if not torch.allclose(viewaug.distortion(x, one), torch.full((8,), 0.05), rtol=1e-4):
        raise RuntimeError("a view missed its budget")
    z = torch.nn.functional.normalize(encoder(torch.cat([one, two]).flatten(1)))
    torch.nn.functional.cross_entropy(z[:8] @ z[8:].T, torch.arange(8)).backward()
    optimizer.step()
    if any(torch.equal(a, b) for a, b in zip(before, viewmaker.parameters(), strict=True)):
        raise RuntimeError("a step left the viewmaker where it was")


if __name__ == "__main__":
    sys.exit(main())
