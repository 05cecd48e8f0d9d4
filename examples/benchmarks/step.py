"""The cost of a SimCLR training step with learned views, relative to one without views.

python -m viewaug.examples.benchmarks.step [--compile]
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torchvision.models import resnet18
from viewaug.examples.benchmarks._timing import alternate, environment
from viewaug.examples.original_protocol import Player, alternating_step

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker


def encoder(stem: str) -> nn.Module:
    """ResNet-18 with 128 outputs; the "cifar" stem has a 3x3 convolution of stride 1 and no max-pooling."""
    model = resnet18(num_classes=128)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def plain_step(stem: str, x: Tensor) -> Callable[[], None]:
    """SimCLR on the bare images."""
    model, criterion = encoder(stem), NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(x), model(x)).backward()
        optimizer.step()

    return step


def reversal_step(stem: str, x: Tensor, generator: str, compiled: bool = False) -> Callable[[], None]:
    """SimCLR on learned views, both players in one pass."""
    model, criterion = encoder(stem), NTXentLoss()
    viewmaker = Viewmaker(generator=generator)
    if compiled:
        viewmaker.compile()
    augmentation = AdversarialAugmentation(viewmaker)
    base = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    optimizer = JointOptimizer(base, viewmaker.parameters())

    def step() -> None:
        x0, x1 = augmentation.views(x)
        optimizer.zero_grad()
        criterion(model(x0), model(x1)).backward()
        optimizer.step()

    return step


def original_step(stem: str, x: Tensor) -> Callable[[], None]:
    """The protocol of the papers' code: two optimizers, one after the other, each with forward passes of its own."""
    model, criterion = encoder(stem), NTXentLoss()
    viewmaker = Viewmaker(generator="reference", constraint="rescale", eps=1e-4)
    players = (
        Player(model, torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9), 1),
        Player(viewmaker, torch.optim.Adam(viewmaker.parameters(), lr=1e-3), -1),
    )

    def step() -> None:
        alternating_step(lambda: criterion(model(viewmaker(x)), model(viewmaker(x))), *players)

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds, of which the median counts")
    parser.add_argument(
        "--batch", type=int, nargs=2, default=[16, 48], help="batch for the CIFAR and the torchvision stem"
    )
    parser.add_argument("--compile", action="store_true", help="add torch.compile of the fast viewmaker")
    options = parser.parse_args(arguments)

    print(environment())
    for stem, batch in zip(("cifar", "torchvision"), options.batch, strict=True):
        x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        steps = {
            "no views": plain_step(stem, x),
            "fast, reversal": reversal_step(stem, x, "fast"),
            "reference, reversal": reversal_step(stem, x, "reference"),
            "original protocol": original_step(stem, x),
        }
        if options.compile:
            steps["fast, reversal, compiled"] = reversal_step(stem, x, "fast", compiled=True)
        seconds = alternate(steps, options.rounds)
        print(f"\nResNet-18, {stem} stem, 3x32x32, batch {batch}: CPU seconds a step, relative to no views")
        for name, value in seconds.items():
            print(f"{name:26}{value:8.3f}{value / seconds['no views']:8.2f} x")


if __name__ == "__main__":
    main()
