"""lightly: base transforms, a step of both players for each of its losses, and other hosts' ways to call us."""

import copy
import inspect

import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F
from lightly import loss as L
from lightly import transforms
from lightly.loss.hypersphere_loss import HypersphereLoss
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from viewaug.adapters.lightly import base_transform

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker

NAMES = ["aim", "byol", "capi", "densecl", "detcons", "dino", "fastsiam", "fda", "ibot", "mae", "mmcr", "mocov1"]
NAMES += ["mocov2", "pirl", "simclr", "simclrview", "simsiam", "smog", "swav", "tico", "vicreg"]

COLOUR = (51, 102, 204)


def tensors(views):
    """All floating point tensors in nested lists."""
    if torch.is_tensor(views):
        return [views] if views.is_floating_point() else []
    return [tensor for view in views for tensor in tensors(view)]


@pytest.mark.parametrize("name", NAMES)
def test_base_transform_changes_no_colour_and_does_not_normalise(name):
    views = tensors(base_transform(name)(Image.new("RGB", (300, 260), COLOUR)))
    assert views
    for view in views:
        expected = torch.tensor(COLOUR)[:, None, None] / 255
        torch.testing.assert_close(view, expected.expand_as(view), rtol=0, atol=1 / 255)


def test_base_transform_keeps_what_is_asked_for():
    x0, x1 = base_transform("SimCLR", input_size=32)(Image.new("RGB", (64, 48), COLOUR))
    assert x0.shape == x1.shape == (3, 32, 32)
    assert tensors(base_transform("byol", input_size=16)(Image.new("RGB", (64, 48))))[1].shape == (3, 16, 16)
    grey = base_transform("simclr", input_size=32, random_gray_scale=1.0)(Image.new("RGB", (64, 48), COLOUR))[0]
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("name", ["msn", "wmse", "magic", "rfft2d"])
def test_base_transform_refuses(name):
    with pytest.raises(ValueError, match="`name`"):
        base_transform(name)


def test_every_two_view_transform_of_lightlys_is_known():
    for name in dir(transforms):
        cls = getattr(transforms, name)
        if inspect.isclass(cls) and name.endswith("Transform") and "normalize" in inspect.signature(cls).parameters:
            key = name.removesuffix("Transform").lower()
            if key not in ("msn", "msnview", "wmse"):
                base_transform(key)


def test_a_batch_of_a_loader_goes_through():
    data = [(Image.new("RGB", (40, 30), COLOUR), i) for i in range(4)]
    transform = base_transform("simclr", input_size=16)
    (views, labels) = next(iter(DataLoader([(transform(x), y) for x, y in data], batch_size=4)))
    augmentation = AdversarialAugmentation(Viewmaker())
    assert [augmentation(x).shape for x in views] == [(4, 3, 16, 16)] * 2
    assert labels.tolist() == [0, 1, 2, 3]


def simple(criterion, **options):
    return lambda z: criterion(**options)(*z)


def stop_gradient(z):
    predictor = nn.Linear(8, 8)
    criterion = L.NegativeCosineSimilarity()
    return criterion(predictor(z[0]), z[1].detach()) + criterion(predictor(z[1]), z[0].detach())


def swav(z):
    prototypes = F.normalize(torch.randn(8, 6), dim=0)
    scores = [F.normalize(view) @ prototypes for view in z]
    return L.SwaVLoss()(scores, [])


def dino(z):
    return L.DINOLoss(output_dim=8)([view.detach() for view in z], list(z), epoch=0)


def stacked(criterion):
    return lambda z: criterion(local_proj=torch.stack(z), global_proj=torch.stack(z))


def mmcr(z):
    views = torch.stack(z, 1)  # (B, k, D)
    return L.MMCRLoss()(views, views.detach().flip(1))


LOSSES = {
    "ntxent": simple(L.NTXentLoss),
    "memory bank": simple(L.NTXentLoss, memory_bank_size=(32, 8)),
    "dcl": simple(L.DCLLoss),
    "dclw": simple(L.DCLWLoss),
    "directclr": simple(L.DirectCLRLoss, loss_dim=4),
    "macl": simple(L.MACLLoss),
    "barlow twins": simple(L.BarlowTwinsLoss),
    "vicreg": simple(L.VICRegLoss),
    "tico": simple(L.TiCoLoss),
    "hypersphere": simple(HypersphereLoss),
    "frossl": lambda z: L.FroSSLLoss()(list(z)),
    "empssl": lambda z: L.EMPSSLLoss()(list(z)),
    "mmcr": mmcr,
    "wmse": lambda z: L.WMSELoss(embedding_dim=8, num_samples=2, w_size=16)(torch.cat(z)),
    "lejepa": lambda z: stacked(L.LeJEPALoss())(z),
    "visreg": lambda z: stacked(L.VISRegLoss())(z),
    "stop-gradient": stop_gradient,
    "swav": swav,
    "dino": dino,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_trains_both_players(name):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 8))
    viewmaker = Viewmaker(width=8, depth=1)
    optimizer = JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.1), viewmaker.parameters())
    before = copy.deepcopy((encoder, viewmaker))
    x = torch.rand(32, 3, 12, 12)
    value = LOSSES[name]([encoder(view) for view in AdversarialAugmentation(viewmaker).views(x)])
    value.mean().backward()
    for player in (encoder, viewmaker):
        grads = [parameter.grad for parameter in player.parameters() if parameter.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0
    optimizer.step()
    for old, new in zip(before, (encoder, viewmaker), strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(old.parameters(), new.parameters(), strict=True))


def test_a_task_that_augments_without_gradients_learns():
    """As torchgeo's SimCLR, MoCo and BYOL tasks do."""

    class Task(nn.Module):
        def __init__(self, augmentations: nn.Module) -> None:
            super().__init__()
            self.augmentations, self.encoder = augmentations, nn.Sequential(nn.Flatten(), nn.Linear(192, 8))

        def loss(self, x):
            with torch.no_grad():
                x0, x1 = self.augmentations(x), self.augmentations(x)
            return L.NTXentLoss()(self.encoder(x0), self.encoder(x1))

    task = Task(AdversarialAugmentation(Viewmaker()))
    task.loss(torch.rand(4, 3, 8, 8)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.augmentations.viewmaker.parameters())


def test_a_frozen_viewmaker_after_the_transfer_of_a_batch():
    import pytorch_lightning

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
            self.augmentation = AdversarialAugmentation(Viewmaker()).freeze()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            (x0, x1), y = batch
            return [self.augmentation(x0), self.augmentation(x1)], y

        def training_step(self, batch, batch_idx):
            (x0, x1), _ = batch
            assert not torch.equal(x0, x1)
            return L.NTXentLoss()(self.encoder(x0), self.encoder(x1))

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.encoder.parameters())

    module, x = Module(), torch.rand(3, 8, 8)
    before = copy.deepcopy(module)
    trainer = pytorch_lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader([([x, x], 0)] * 8, batch_size=4))
    pairs = zip(before.named_parameters(), module.parameters(), strict=True)
    assert all(torch.equal(p, q) != name.startswith("encoder") for (name, p), q in pairs)


@pytest.mark.parametrize(
    "pipeline",
    [
        K.AugmentationSequential(K.RandomResizedCrop((8, 8)), K.RandomHorizontalFlip()),
        v2.Compose([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip()]),
    ],
    ids=["kornia", "torchvision"],
)
def test_a_pipeline_over_batches_before_each_view(pipeline):
    augmentation = AdversarialAugmentation(Viewmaker(), transform=pipeline)
    view = augmentation(torch.rand(4, 3, 16, 16))
    assert view.shape == (4, 3, 8, 8)
    view.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in augmentation.viewmaker.parameters())
