"""A main script as solo-learn's: a configuration by Hydra, a method by its name, crops normalised in the loader."""

import json
from pathlib import Path

import hydra
import torch
from lightning.pytorch import Trainer, seed_everything
from omegaconf import OmegaConf
from solo.methods import METHODS
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class NCrop:
    """One pipeline of transforms, and how often it is applied."""

    def __init__(self, transform, num_crops):
        self.transform, self.num_crops = transform, num_crops


class Full:
    """All pipelines."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        return [pipeline.transform(x) for pipeline in self.transforms for _ in range(pipeline.num_crops)]


class Images(Dataset):
    def __init__(self, transform, n=16, size=12):
        self.transform, self.size = transform, size
        self.images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return i, self.transform(self.images[i]), i % 5


def crop(side):
    return lambda x: x[:, :side, :side]


def loader(crops):
    pipelines = [NCrop(Compose([crop(side), Normalize(MEAN, STD)]), count) for side, count in crops]
    return DataLoader(Images(Full(pipelines)), batch_size=4)


@hydra.main(version_base="1.2")
def main(cfg):
    OmegaConf.set_struct(cfg, False)
    cfg = METHODS[cfg.method].add_and_assert_specific_cfg(cfg)
    cfg.optimizer.lr *= 2  # scaled with the batch
    seed_everything(cfg.seed)
    model = METHODS[cfg.method](cfg)
    trainer = Trainer(
        max_epochs=cfg.max_epochs,
        accelerator="cpu",
        devices=cfg.devices,
        strategy=cfg.strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    folder = Path(cfg.out) / cfg.name
    found = folder / "last.ckpt"
    trainer.fit(model, loader(cfg.crops), ckpt_path=found if found.exists() else None)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "args.json").write_text(json.dumps(OmegaConf.to_container(cfg)))
    trainer.save_checkpoint(found)
    torch.save(model.state_dict(), f"{cfg.out}/{cfg.name}-rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
