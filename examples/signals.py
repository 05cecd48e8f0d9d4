"""SimCLR with learned views of other signals: images of 13 bands, and volumes.

The module is the same; `channels` and `dims` say what it is for. The data are made up: each of four classes has its own
spectrum or size. Real series are in viewaug.examples.multitask_sensors.

python -m viewaug.examples.signals [--signal volume]
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker
from viewaug.probes import Probe

CLASSES = 4


def bands(label: Tensor) -> Tensor:
    """Return images of 13 bands, 17 x 22, in [0, 1]; the class is in the spectrum."""
    wavelength = torch.arange(13) / 12
    spectrum = torch.exp(-8 * (wavelength - label[:, None] / (CLASSES - 1)).square())
    texture = torch.rand(len(label), 1, 17, 22)
    return (0.2 + 0.6 * spectrum[:, :, None, None] * texture + 0.05 * torch.randn(len(label), 13, 17, 22)).clamp(0, 1)


def volumes(label: Tensor) -> Tensor:
    """Return volumes, 12 x 15 x 14, in [0, 1], with a ball somewhere; the class is in its size."""
    place = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (12, 15, 14)), indexing="ij"))
    centre = torch.tensor([3.0, 4.0, 4.0]) + torch.rand(len(label), 3) * 6
    distance = (place - centre[:, :, None, None, None]).square().sum(1, keepdim=True).sqrt()
    ball = (distance < 1.5 + label[:, None, None, None, None]).float()
    return (0.2 + 0.6 * ball + 0.1 * torch.randn_like(ball)).clamp(0, 1)


# What makes them, and the viewmaker's options.
SIGNALS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "bands": (bands, {"channels": 13, "dims": 2}),
    "volume": (volumes, {"channels": 1, "dims": 3}),
}


def main(arguments: Sequence[str] | None = None) -> float:
    """Pretrain, probe, and return the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", choices=SIGNALS, default="bands")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    make, kind = SIGNALS[options.signal]

    augmentation = AdversarialAugmentation(Viewmaker(**kind, budget=0.05))
    convolution = nn.Conv2d if kind["dims"] == 2 else nn.Conv3d
    encoder = nn.Sequential(
        convolution(kind["channels"], 16, 3, stride=2),
        nn.ReLU(),
        convolution(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    criterion = NTXentLoss(temperature=0.2)
    adam = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    optimizer = JointOptimizer(adam, augmentation.parameters(), lr=1e-3)
    for step in range(options.steps):
        x = make(torch.randint(CLASSES, (64,)))
        z0, z1 = (head(encoder(view)) for view in augmentation.views(x))
        loss = criterion(z0, z1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    label, test_label = (torch.randint(CLASSES, (400,)) for _ in range(2))
    probe = Probe.fit(encoder, make(label), {"class": label})
    accuracy = probe.accuracy(make(test_label), {"class": test_label})["class"]
    print(f"{options.signal}: {100 * accuracy:.1f}% of {CLASSES} classes by a linear probe")
    return accuracy


if __name__ == "__main__":
    main()
