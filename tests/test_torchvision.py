"""The torchvision transform: what it changes, what it passes on, and in workers."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from viewaug.adapters.torchvision import ViewmakerTransform

import viewaug

FLOATS = v2.ToDtype(torch.float32, scale=True)


def image(side: int = 16) -> tv_tensors.Image:
    return tv_tensors.Image(torch.randint(0, 256, (3, side, side), dtype=torch.uint8))


def test_images_change_and_the_rest_does_not():
    transform = v2.Compose([FLOATS, ViewmakerTransform(viewaug.Viewmaker(budget=0.05)), v2.Normalize([0.5], [0.25])])
    boxes = tv_tensors.BoundingBoxes([[1, 1, 5, 5]], format="XYXY", canvas_size=(16, 16))
    mask = tv_tensors.Mask(torch.ones(1, 16, 16))
    sample = {"image": image(), "boxes": boxes, "mask": mask, "label": 3, "name": "a"}
    out = transform(sample)
    assert isinstance(out["image"], tv_tensors.Image)
    assert not out["image"].requires_grad
    changed = (out["image"] * 0.25 + 0.5 - sample["image"].float() / 255).abs().mean()
    assert changed == pytest.approx(0.05, rel=1e-3)
    assert torch.equal(out["boxes"], boxes)
    assert torch.equal(out["mask"], mask)
    assert (out["label"], out["name"]) == (3, "a")


def test_draws_for_each_sample_and_for_batches():
    transform = ViewmakerTransform(viewaug.Viewmaker(generator="random"))
    x = torch.full((4, 3, 16, 16), 0.5)
    views = transform(x)
    assert views.shape == x.shape
    assert len({view.numpy().tobytes() for view in views}) == 4
    assert not torch.equal(transform(x), views)
    again = pickle.loads(pickle.dumps(transform))
    assert again(x).shape == x.shape


class Images(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.transform(torch.full((3, 8, 8), 128, dtype=torch.uint8))


def test_in_workers():
    transform = v2.Compose([FLOATS, ViewmakerTransform(viewaug.Viewmaker(generator="random"))])
    views = torch.cat(list(DataLoader(Images(transform), batch_size=4, num_workers=2)))
    assert len({view.numpy().tobytes() for view in views}) == 8


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ViewmakerTransform("additive"), TypeError, "`viewmaker`.*str"),
        (lambda: ViewmakerTransform(viewaug.Viewmaker(3, dims=1)), ValueError, "2 dims"),
        (lambda: ViewmakerTransform(viewaug.Viewmaker(perturbation="mix", budget=None)), ValueError, "Mix mixes"),
        (lambda: ViewmakerTransform(viewaug.Viewmaker())(image()), TypeError, "floats.*uint8"),
        (lambda: ViewmakerTransform(viewaug.Viewmaker())(5 * torch.rand(3, 8, 8)), ValueError, "value range"),
        (
            lambda: ViewmakerTransform(viewaug.Viewmaker(perturbation="warp"))(
                FLOATS(image()), tv_tensors.Mask(torch.ones(1, 16, 16))
            ),
            ValueError,
            "Mask.*Warp moves pixels",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
