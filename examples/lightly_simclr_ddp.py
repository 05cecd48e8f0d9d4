"""SimCLR with lightly and Lightning on learned views, on several devices; the module knows nothing of them.

python -m viewaug.examples.lightly_simclr_ddp --devices 2 [--fake]
torchrun --nproc-per-node 2 -m viewaug.examples.lightly_simclr_ddp --devices 2

On several nodes, run the latter on each, with torchrun's --nnodes and --rdzv-endpoint, and give their number as
--nodes, too.
"""

import argparse
from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.utils import IMAGENET_NORMALIZE
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, FakeData
from torchvision.models import resnet18
from viewaug.adapters.lightly import base_transform
from viewaug.adapters.lightning import ViewmakerCallback

from viewaug import Viewmaker


class SimCLR(LightningModule):
    """SimCLR (Chen et al., ICML 2020) as without learned views."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        self.head = SimCLRProjectionHead(512, 512, 128)
        self.criterion = NTXentLoss(gather_distributed=True)  # negatives, and gradients to views, across devices

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        (x0, x1), _ = batch
        loss = self.criterion(self.head(self.backbone(x0)), self.head(self.backbone(x1)))
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="datasets/cifar10", help="folder of CIFAR-10, which is downloaded to it")
    parser.add_argument("--fake", action="store_true", help="noise for images, to try it without a download")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256, help="on each device")
    parser.add_argument("--devices", type=int, default=1, help="on each node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu, ...")
    parser.add_argument("--out", default=".", help="folder for logs, checkpoints and pictures of views")
    options = parser.parse_args(arguments)

    seed_everything(0)
    transform = base_transform("simclr", input_size=32)
    if options.fake:
        dataset = FakeData(4 * options.batch, (3, 32, 32), transform=transform)
    else:
        dataset = CIFAR10(options.data, download=True, transform=transform)
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp" if options.devices * options.nodes > 1 else "auto",
        sync_batchnorm=options.accelerator != "cpu",
        default_root_dir=options.out,
        callbacks=[ViewmakerCallback(Viewmaker(channels=3, budget=0.05), draw_every_n_epochs=1, **IMAGENET_NORMALIZE)],
    )
    trainer.fit(SimCLR(), DataLoader(dataset, batch_size=options.batch, shuffle=True, drop_last=True))


if __name__ == "__main__":
    main()
