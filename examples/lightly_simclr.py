"""SimCLR with lightly on learned views: lightly's own example, and nine lines, as in lightly_simclr.diff.

python -m viewaug.examples.lightly_simclr [--fake]
"""

import argparse
from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, FakeData
from torchvision.models import resnet18
from viewaug.adapters.lightly import base_transform

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker


def main(arguments: Sequence[str] | None = None) -> float:
    """Pretrain, and return the loss of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="datasets/cifar10", help="folder of CIFAR-10, which is downloaded to it")
    parser.add_argument("--fake", action="store_true", help="noise for images, to try it without a download")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    backbone = resnet18()
    backbone.fc = nn.Identity()
    model = nn.Sequential(backbone, SimCLRProjectionHead(512, 512, 128)).to(device)
    viewmaker = Viewmaker(channels=3, budget=0.05).to(device)
    augmentation = AdversarialAugmentation(viewmaker, **IMAGENET_NORMALIZE).to(device)

    transform = base_transform("simclr", input_size=32)  # crops and flips; the viewmaker does the rest
    if options.fake:
        dataset = FakeData(2 * options.batch, (3, 32, 32), transform=transform)
    else:
        dataset = CIFAR10(options.data, download=True, transform=transform)
    loader = DataLoader(dataset, batch_size=options.batch, shuffle=True, drop_last=True)

    criterion = NTXentLoss()
    sgd = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9)
    optimizer = JointOptimizer(sgd, viewmaker.parameters(), lr=1e-3)

    average = float("nan")
    for epoch in range(options.epochs):
        total = 0.0
        for (x0, x1), _ in loader:
            z0 = model(augmentation(x0.to(device)))
            z1 = model(augmentation(x1.to(device)))
            loss = criterion(z0, z1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        average = total / len(loader)
        print(f"epoch {epoch}: loss {average:.4f}")
    return average


if __name__ == "__main__":
    main()
