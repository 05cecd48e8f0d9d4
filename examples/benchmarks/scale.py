"""What views cost at 224 pixels and in batches of 4096, on paper: operations, launches, memory and traffic of a step.

Nothing is timed. A SimCLR step of ResNet-50 and of ViT-B/16 is run on the meta device on one pair of views and on
three, where everything is counted; all but launches grows by the same amount with each pair, which gives the rest.

python -m viewaug.examples.benchmarks.scale
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from viewaug.examples.benchmarks.launches import NOTHING, Launches
from viewaug.examples.benchmarks.memory import peak, step

from viewaug import AdversarialAugmentation, Viewmaker
from viewaug._markdown import markdown_table

ENCODERS = {"ResNet-50": "resnet50", "ViT-B/16": "vit_base_patch16_224"}  # and their names in timm
VIEWS = ("none", "random", "fast", "reference")
SIZE, BATCH, DEVICES = 224, 4096, (1, 8)
_OPTIMIZER = 1  # more numbers for each parameter: the momentum of SGD


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write while it is active, as if nothing were kept in a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if not function.is_view and not function._schema.name.partition("::")[2].startswith(NOTHING):
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor))
        return made


class Cost(NamedTuple):
    """Of a step: floating-point operations and bytes, of which some are there whatever the batch."""

    flops: float
    traffic: float
    memory: float
    fixed: float
    launches: int
    gradients: int  # bytes, that several devices exchange

    def memory_of(self, pairs: int) -> float:
        """Return the peak of so many pairs on one device, with parameters and the optimizer's state."""
        return self.fixed + pairs * self.memory


def cost(encoder: str, views: str, dtype: torch.dtype = torch.bfloat16) -> Cost:
    """Count a step of a network of timm's, on the meta device.

    Args:
        encoder: its name.
        views: ``"none"``, or the generator of a viewmaker.
        dtype: of the encoder; views are made in float32.
    """
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(encoder, num_classes=0)
    model = nn.Sequential(_Cast(dtype), model.to(dtype))
    augmentation = None if views == "none" else AdversarialAugmentation(Viewmaker(generator=views).to("meta"))
    parameters = [p for part in (model, augmentation) if part is not None for p in part.parameters()]

    def run(pairs: int) -> None:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # there, as in all steps but the first
        step(model, torch.empty(pairs, 3, SIZE, SIZE, device="meta"), augmentation)

    measured = []
    for pairs in (1, 3):
        with FlopCounterMode(display=False) as flops:
            run(pairs)
        with Traffic() as traffic:
            run(pairs)
        measured.append((flops.get_total_flops(), traffic.bytes, peak(lambda: run(pairs))))  # noqa: B023
    with Launches() as launches:
        run(1)
    flops_of, bytes_of, peak_of = ((after - before) / 2 for before, after in zip(*measured, strict=True))
    weights = sum(p.nbytes for p in parameters)
    # What is measured holds the gradients; parameters and the optimizer's state come on top.
    fixed = measured[0][2] - peak_of + (1 + _OPTIMIZER) * weights
    return Cost(flops_of, bytes_of, peak_of, fixed, launches.names.total() - len(parameters), weights)


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def tables(encoders: Sequence[str] = tuple(ENCODERS), views: Sequence[str] = VIEWS) -> list[str]:
    """Return a table of a step for each encoder, of the whole batch and what each of several devices has of it."""
    found = []
    for encoder in encoders:
        costs = {name: cost(ENCODERS[encoder], name) for name in views}
        plain = cost(ENCODERS[encoder], "none") if "none" not in costs else costs["none"]
        rows = [
            [
                f"`{name}`",
                f"{BATCH * of.flops / 1e12:.1f}",
                f"{of.flops / plain.flops:.3f} x",
                f"{BATCH * of.traffic / 1e12:.2f}",
                f"{of.traffic / plain.traffic:.3f} x",
                *(f"{of.memory_of(BATCH // devices) / 2**30:,.0f}" for devices in DEVICES),
                f"{of.memory_of(BATCH) / plain.memory_of(BATCH):.3f} x",
                str(of.launches),
                f"{of.gradients / 2**20:.2f}",
            ]
            for name, of in costs.items()
        ]
        head = [
            encoder,
            "TFLOP",
            "to none",
            "TB read and written",
            "to none",
            *(f"GiB, {devices} device{'s' * (devices > 1)}" for devices in DEVICES),
            "to none",
            "launches",
            "MiB of gradients",
        ]
        found.append(markdown_table(head, rows))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    options = parser.parse_args(arguments)
    print("\n\n".join(tables(options.encoders)))


if __name__ == "__main__":
    main()
