"""A loss of the viewmaker's own, against two backward passes."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

from viewaug import AdversarialAugmentation, Viewmaker, frozen_call


def off_diagonal(z: torch.Tensor) -> torch.Tensor:
    covariance = torch.cov(z.T)
    return covariance.square().sum() - covariance.diagonal().square().sum()


def vicreg(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Invariance, variance and covariance (Bardes et al., ICLR 2022)."""
    spread = sum(F.relu(1 - z.var(0).add(1e-4).sqrt()).mean() for z in (one, two))
    return 25 * F.mse_loss(one, two) + 25 * spread + off_diagonal(one) + off_diagonal(two)


def encoder(kind: str) -> nn.Module:
    first, last = nn.Conv2d(1, 4, 3), nn.Linear(144, 6)
    norm = {"plain": nn.Identity, "batch norm": lambda: nn.BatchNorm2d(4)}.get(kind, nn.Identity)()
    if kind == "spectral norm":
        first = parametrizations.spectral_norm(first)
    return nn.Sequential(first, norm, nn.Tanh(), nn.Flatten(), last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["plain", "batch norm", "spectral norm"])
def test_gradients_are_those_of_two_backward_passes(kind, training):
    torch.manual_seed(0)
    net, augmentation = encoder(kind).double(), AdversarialAugmentation(Viewmaker(1, width=8, depth=1)).double()
    net(torch.rand(8, 1, 8, 8, dtype=torch.float64))  # away from the initial buffers
    before = copy.deepcopy(net.train(training))
    x = 0.25 + 0.5 * torch.rand(8, 1, 8, 8, dtype=torch.float64)
    noise = [augmentation.viewmaker.draw_noise(x) for _ in range(2)]
    theirs, mine = list(net.parameters()), list(augmentation.viewmaker.parameters())

    views = [augmentation.perturb(x, part) for part in noise]
    fixed = [frozen_call(net, view) for view in views]
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in net.state_dict().items())
    loss = vicreg(*net(torch.cat([view.detach() for view in views])).chunk(2))
    after = {name: value.clone() for name, value in net.state_dict().items()}
    (loss + F.mse_loss(*fixed)).backward()
    got = [p.grad for p in (*theirs, *mine)]

    net.load_state_dict(before.state_dict())
    views = [augmentation.viewmaker(x, part) for part in noise]
    joint = vicreg(*net(torch.cat([view.detach() for view in views])).chunk(2))
    assert all(torch.equal(value, after[name]) for name, value in net.state_dict().items())
    expected = list(torch.autograd.grad(joint, theirs))
    nets = [copy.deepcopy(before) for _ in views]  # each from the buffers of before
    expected += torch.autograd.grad(-F.mse_loss(*(one(view) for one, view in zip(nets, views, strict=True))), mine)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert any(g.abs().max() > 0 for g in got[len(theirs) :])


def test_reversing_all_is_another_gradient():
    """So the loss of one's own is worth having: the regulariser's part is not small."""
    torch.manual_seed(0)
    net, augmentation = encoder("plain"), AdversarialAugmentation(Viewmaker(1, width=8, depth=1))
    views = augmentation.views(torch.rand(8, 1, 8, 8))
    mine = list(augmentation.viewmaker.parameters())
    whole = torch.autograd.grad(vicreg(*map(net, views)), mine, retain_graph=True)
    own = torch.autograd.grad(F.mse_loss(*(frozen_call(net, view) for view in views)), mine)
    flat = [torch.cat([g.flatten() for g in part]) for part in (whole, own)]
    assert F.cosine_similarity(*flat, dim=0) < 0.99


def test_of_a_distributed_encoder_the_module_is_called(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = DistributedDataParallel(encoder("batch norm"))
        augmentation = AdversarialAugmentation(Viewmaker(1, width=8, depth=1))
        one, two = augmentation.views(torch.rand(8, 1, 8, 8))
        own = F.mse_loss(frozen_call(net, one), frozen_call(net, two))
        loss = vicreg(*net(torch.cat([one, two]).detach()).chunk(2))
        (loss + own).backward()
    finally:
        dist.destroy_process_group()
    assert all(p.grad is not None for p in net.parameters())
    assert any(p.grad.any() for p in augmentation.viewmaker.parameters())


def test_arguments_are_passed_on():
    class Shift(nn.Linear):
        def forward(self, x, *, by=0.0):
            return super().forward(x) + by

    net, x = Shift(2, 2), torch.rand(3, 2)
    torch.testing.assert_close(frozen_call(net, x, by=1.0), net(x) + 1)
