"""The budget's controller: its rule, its bounds, equal on all ranks, and in a loop that it steers."""

import math
from datetime import timedelta

import pytest
import torch
from torch import nn

import viewaug


def controller(budget: float = 0.1, **options) -> viewaug.BudgetController:
    options = {"unrelated": 2.0, "target": 0.25, "gain": 0.1} | options
    return viewaug.BudgetController(viewaug.Viewmaker(budget=budget, width=8, depth=1), **options)


@pytest.mark.parametrize(
    ("loss", "change"),
    [(0.0, 0.1), (0.25, 0.05), (0.5, 0.0), (0.75, -0.05), (1.0, -0.1), (7.0, -0.1), (-3, 0.1), (torch.ones(()), -0.1)],
)
def test_rule(loss, change):
    steering = controller()
    assert steering.step(loss) == pytest.approx(0.1 * math.exp(change))
    assert steering.viewmaker.budget == steering.value
    assert steering.difficulty == pytest.approx(float(loss) / 2)


def test_bounds():
    steering = controller(bounds=(0.09, 0.11))
    assert [steering.step(0.0) for _ in range(3)][-1] == 0.11
    assert [steering.step(2.0) for _ in range(5)][-1] == 0.09


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_loss_that_is_not_finite_changes_nothing(loss):
    assert controller().step(loss) == 0.1


def test_state():
    steering, other = controller(), controller()
    steering.step(0.0)
    other.load_state_dict(steering.state_dict())
    assert other.step(0.0) == steering.step(0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "`target`"),
        ({"target": 1.0}, "`target`"),
        ({"unrelated": 0.0}, "`unrelated`"),
        ({"unrelated": math.inf}, "`unrelated`"),
        ({"gain": -1.0}, "`gain`"),
        ({"bounds": (0.2, 0.3)}, "`bounds`"),
        ({"bounds": (0.0, 0.3)}, "`bounds`"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        controller(**options)


def test_no_viewmaker():
    with pytest.raises(TypeError, match="`viewmaker`"):
        viewaug.BudgetController(nn.Identity(), unrelated=1.0)


def test_it_holds_a_target():
    """In a loop of its own, from budgets that are a hundred times apart."""
    from lightly.loss import NTXentLoss

    found = {}
    for start in (0.005, 0.5):
        torch.manual_seed(0)
        viewmaker = viewaug.Viewmaker(1, budget=start, width=8, depth=1)
        steering = viewaug.BudgetController(viewmaker, unrelated=math.log(63), target=0.3, gain=0.05)
        augmentation = viewaug.AdversarialAugmentation(viewmaker)
        encoder, criterion = nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), NTXentLoss(0.1)
        optimizer = viewaug.JointOptimizer(torch.optim.SGD(encoder.parameters(), lr=0.01), viewmaker.parameters())
        losses = []
        for _ in range(150):
            x0, x1 = augmentation.views(torch.rand(32, 1, 8, 8))
            loss = criterion(encoder(x0), encoder(x1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steering.step(loss)
            losses.append(loss.item() / math.log(63))
        found[start] = viewmaker.budget
        assert sum(losses[-30:]) / 30 == pytest.approx(0.3, abs=0.06)
    assert found[0.005] == pytest.approx(found[0.5], rel=0.3)


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    loss = torch.tensor(0.2 + 0.4 * rank)
    found = torch.tensor([controller().step(loss), loss.item()], dtype=torch.float64)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(processes):
    """Each rank has a loss of its own; the budget moves by their mean on both."""
    folder, _ = processes(worker, 2)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    expected = controller().step(0.4)
    for rank in range(2):
        assert found[rank][0].item() == pytest.approx(expected)
        assert found[rank][1].item() == pytest.approx(0.2 + 0.4 * rank)  # untouched
