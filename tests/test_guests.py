"""Learned views in frameworks that know nothing of them, as they are installed, for a few steps that learn."""

import copy
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

import viewaug
from viewaug import AdversarialAugmentation, SampleTransform, Viewmaker

pytestmark = pytest.mark.filterwarnings("ignore")


def moved(module, before):
    """How far the parameters are from where they were."""
    return sum((p - q).abs().sum().item() for p, q in zip(module.parameters(), before.parameters(), strict=True))


class Dictionaries(Dataset):
    """Dictionaries of one random input, the same at each call."""

    def __init__(self, make, size=16):
        self.items = [make() for _ in range(size)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def network():
    """Images to features."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def quiet_trainer(folder, **options):
    """Lightning's, which prints and keeps nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)


class Siamese(nn.Module):
    """An encoder with the augmentation inside, whose forward pass returns the loss, as Hugging Face wants it."""

    def __init__(self, viewmaker):
        super().__init__()
        self.augmentation = AdversarialAugmentation(viewmaker)
        self.encoder = network()

    def forward(self, image, labels=None):
        z0, z1 = (nn.functional.normalize(self.encoder(view), dim=1) for view in self.augmentation.views(image))
        logits = z0 @ z1.T / 0.2
        loss = nn.functional.cross_entropy(logits, torch.arange(len(image), device=image.device))
        return {"loss": loss, "logits": z0}


def test_torchgeo(tmp_path):
    """A task that augments under no_grad; 13 bands, standardised, none clipped."""
    trainers = pytest.importorskip("torchgeo.trainers")

    viewmaker = Viewmaker(13, value_range=None, budget=0.2)
    augmentation = AdversarialAugmentation(viewmaker)
    task = trainers.SimCLRTask(
        model="resnet18", weights=None, in_channels=13, memory_bank_size=0, version=1, augmentations=augmentation
    )
    before = copy.deepcopy(viewmaker)
    loader = DataLoader(Dictionaries(lambda: {"image": 3 * torch.randn(13, 32, 32)}), 8, drop_last=True)
    trainer = quiet_trainer(tmp_path, max_steps=4)
    trainer.fit(task, loader)
    assert moved(viewmaker, before) > 0
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    view = viewmaker(3 * torch.randn(2, 13, 32, 32))
    assert view.abs().max() > 3  # no clipping


def test_stable_pretraining_by_callback(tmp_path):
    """Manual optimisation, and dictionaries of named views."""
    spt = pytest.importorskip("stable_pretraining")
    from viewaug.adapters.lightning import ViewmakerCallback

    def forward(self, batch, stage):
        z = [nn.functional.normalize(self.backbone(view["image"]), dim=1) for view in batch["views"]]
        targets = torch.arange(len(z[0]))
        return {"loss": nn.functional.cross_entropy(z[0] @ z[1].T / 0.2, targets), "views": batch["views"]}

    encoder = network()
    module = spt.Module(forward=forward, backbone=encoder, optim={"optimizer": {"type": "SGD", "lr": 0.1}}, hparams={})
    viewmaker = Viewmaker()
    start, first = copy.deepcopy(viewmaker), copy.deepcopy(encoder)
    callback = ViewmakerCallback(viewmaker, views="views.*.image")

    def sample():
        image = torch.rand(3, 16, 16)
        return {"views": [{"image": image, "name": 0}, {"image": image, "name": 1}], "label": 3}

    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[callback])
    trainer.fit(module, DataLoader(Dictionaries(sample), 8))
    assert moved(viewmaker, start) > 0
    assert moved(encoder, first) > 0
    assert trainer.callback_metrics["viewmaker/distortion"] == pytest.approx(0.05, rel=1e-3)


def test_stable_pretraining_in_gpu_transform(tmp_path):
    """A frozen one, on whole batches."""
    spt = pytest.importorskip("stable_pretraining")

    seen = []

    def forward(self, batch, stage):
        seen.append((batch["clean"], batch["image"]))
        return {"loss": self.backbone(batch["image"]).square().mean()}

    def sample():
        image = torch.rand(3, 16, 16)
        return {"image": image, "clean": image}

    data = Dictionaries(sample)
    data.gpu_transform = SampleTransform(Viewmaker(generator="random", budget=0.05), views="image")
    encoder = network()
    module = spt.Module(forward=forward, backbone=encoder, optim={"optimizer": {"type": "SGD", "lr": 0.1}}, hparams={})
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, DataLoader(data, 8))
    assert all((clean - view).abs().mean().item() == pytest.approx(0.05, rel=1e-3) for clean, view in seen)


def test_braindecode():
    """A transform in its loader's collate function, with leads in one dimension."""
    augmentation = pytest.importorskip("braindecode.augmentation")

    viewmaker = Viewmaker(8, dims=1, value_range=None, budget=0.3, units="std", generator="random")

    class Views(augmentation.Transform):
        operation = staticmethod(lambda x, y: (SampleTransform(viewmaker)(x), y))

    x, y = np.random.default_rng(0).standard_normal((12, 8, 200)).astype("float32"), np.arange(12) % 3
    data = [(part, label, (0, 0, 200)) for part, label in zip(x, y, strict=True)]
    loader = augmentation.AugmentedDataLoader(data, transforms=[Views(probability=1.0)], batch_size=6)
    views = torch.cat([batch[0] for batch in loader])
    assert views.shape == x.shape
    assert not views.requires_grad
    size = (views - torch.from_numpy(x)).abs().mean((1, 2)) / torch.from_numpy(x).std((1, 2))
    assert torch.allclose(size, torch.full((12,), 0.3), rtol=0.02)


def test_selfeeg(tmp_path):
    """Its SimCLR takes any callable, and one that learns, too."""
    selfeeg = pytest.importorskip("selfeeg")

    class Encoder(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv1d(8, 16, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())

    viewmaker = Viewmaker(8, dims=1, value_range=None, budget=0.3, units="std")
    augmentation, before = AdversarialAugmentation(viewmaker), copy.deepcopy(viewmaker)
    model = selfeeg.ssl.SimCLR(encoder=Encoder(), projection_head=[16, 16, 8])
    optimizer = viewaug.JointOptimizer(torch.optim.Adam(model.parameters(), lr=1e-3), viewmaker.parameters())
    data = DataLoader([torch.randn(8, 100) for _ in range(16)], batch_size=8)
    losses = model.fit(data, 2, optimizer=optimizer, augmenter=augmentation, verbose=False, return_loss_info=True)
    assert all(np.isfinite(part).all() for part in np.atleast_1d(list(losses.values())))
    assert moved(viewmaker, before) > 0


def test_monai():
    """Dictionary transforms in three dimensions: keys and metadata are kept."""
    transforms = pytest.importorskip("monai.transforms")
    from monai.data import DataLoader as Loader
    from monai.data import Dataset as Samples
    from monai.data import MetaTensor

    views = SampleTransform(Viewmaker(1, dims=3, generator="random", budget=0.05), views="image")
    pipeline = transforms.Compose([transforms.ScaleIntensityd(keys="image"), views])
    image = MetaTensor(torch.rand(1, 12, 10, 8), affine=2 * torch.eye(4), meta={"filename_or_obj": "a.nii"})
    sample = {"image": image, "label": MetaTensor(torch.ones(1, 12, 10, 8)), "name": "a"}
    out = pipeline(sample)
    assert isinstance(out["image"], MetaTensor)
    assert torch.equal(out["image"].affine, image.affine)
    assert out["image"].meta["filename_or_obj"] == "a.nii"
    assert torch.equal(out["label"], sample["label"])
    assert out["name"] == "a"
    clean = transforms.ScaleIntensityd(keys="image")(sample)["image"]
    assert (out["image"] - clean).abs().mean().item() == pytest.approx(0.05, rel=1e-3)
    loader = Loader(Samples([sample] * 4, pipeline), batch_size=2, num_workers=2)
    batches = [batch["image"] for batch in loader]
    assert len({view.numpy().tobytes() for batch in batches for view in batch}) == 4  # workers draw their own


def test_torch_audiomentations():
    """A step of its Compose."""
    audio = pytest.importorskip("torch_audiomentations")

    viewmaker = Viewmaker(1, dims=1, value_range=(-1.0, 1.0), budget=0.02)
    augment = audio.Compose([audio.PolarityInversion(p=1.0), AdversarialAugmentation(viewmaker)], output_type="dict")
    x = torch.rand(4, 1, 2000) - 0.5
    out = augment(x, sample_rate=16_000).samples
    assert (out + x).abs().mean((1, 2)).detach().tolist() == pytest.approx([0.02] * 4, rel=1e-3)
    out.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in viewmaker.parameters())


def test_hugging_face_trainer(tmp_path):
    """A module inside the model: it learns by the trainer's own optimizer, is saved, and resumes."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    def train(steps, resume=None):
        torch.manual_seed(0)
        model = Siamese(Viewmaker())
        before = copy.deepcopy(model)
        data = Dictionaries(lambda: {"image": torch.rand(3, 16, 16), "labels": 0}, 32)
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=8,
            save_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            lr_scheduler_type="constant",
            seed=0,
        )
        transformers.Trainer(model=model, args=options, train_dataset=data).train(resume_from_checkpoint=resume)
        return model, before

    model, before = train(4)
    assert moved(model.augmentation, before.augmentation) > 0
    assert moved(model.encoder, before.encoder) > 0
    resumed, _ = train(4, str(tmp_path / "checkpoint-2"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_accelerate(tmp_path):
    """`prepare` and its own saving of states."""
    accelerate = pytest.importorskip("accelerate")

    model = Siamese(Viewmaker())
    base = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    optimizer = viewaug.JointOptimizer(base, model.augmentation.parameters())
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader([torch.rand(3, 16, 16) for _ in range(16)], batch_size=8)
    )
    before = copy.deepcopy(model)

    def step():
        for image in loader:
            accelerator.backward(model(image)["loss"])
            optimizer.step()
            optimizer.zero_grad()

    step()
    assert moved(model.augmentation, before.augmentation) > 0
    accelerator.save_state(str(tmp_path / "state"))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    step()
    accelerator.load_state(str(tmp_path / "state"))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("sample", "views", "error", "message"),
    [
        ({"image": torch.rand(3, 8, 8)}, "photo", ValueError, "'photo'.*image"),
        ({"image": torch.rand(1, 8, 8)}, "image", TypeError, "at 'image'.*\\(1, 8, 8\\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), None, TypeError, r"\(channels, H, W\).*uint8"),
        ((3, torch.rand(3, 8, 8)), None, TypeError, "tuple of a int"),
        (5 * torch.rand(3, 8, 8), None, ValueError, "value range"),
    ],
)
def test_samples_that_do_not_fit(sample, views, error, message):
    with pytest.raises(error, match=message):
        SampleTransform(Viewmaker(generator="random"), views=views)(sample)


def test_what_is_no_transform_of_samples():
    with pytest.raises(TypeError, match=r"`viewmaker`.*str"):
        SampleTransform("additive")
    with pytest.raises(ValueError, match="Mix mixes"):
        SampleTransform(Viewmaker(perturbation="mix", budget=None))


def test_trainable_one_without_an_optimizer_warns():
    """Where no gradient arrives, or nothing steps it, it says so."""
    augmentation = AdversarialAugmentation(Viewmaker())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(200):
            augmentation(torch.rand(2, 3, 8, 8)).detach()
    assert any("gradient" in str(one.message) for one in caught)
