"""Two processes, one game: both players stay equal on both ranks."""

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker

STEPS = 3
GAMES = {"plain": None, "broken": STEPS - 1}  # the step at which rank 1's loss is infinite


class Players(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        viewmaker = Viewmaker(1, width=8, depth=1)
        self.augmentation = AdversarialAugmentation(viewmaker, mean=0.5, std=0.25, warmup=2)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.augmentation.views(x)
        return (self.encoder(one) * self.encoder(two)).mean()


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def play(rank: int, broken: int | None) -> dict:
    torch.manual_seed(rank)  # other weights to begin with, other noise
    model = DistributedDataParallel(Players())
    players = model.module
    base = torch.optim.SGD(players.encoder.parameters(), lr=0.1, momentum=0.9)
    optimizer = JointOptimizer(base, players.augmentation.parameters(), lr=1e-2)
    history = [weights(players)]
    torch.manual_seed(10 + rank)
    for step in range(STEPS):
        loss = model(torch.rand(4, 1, 8, 8))
        if rank == 1 and step == broken:
            loss = loss * float("inf")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(weights(players))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"history": history, "skipped": optimizer.skipped_steps}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({name: play(rank, broken) for name, broken in GAMES.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> dict[str, list[dict]]:
    """Both games from both ranks, played by one pair of processes, since it is their start that takes long."""
    folder = tmp_path_factory.mktemp("ddp")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1])  # where the processes find this module
        torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in GAMES}


def test_both_players_are_equal_and_learn(games):
    one, two = games["plain"]
    for now, others in zip(one["history"], two["history"], strict=True):
        assert all(torch.equal(value, others[name]) for name, value in now.items())
    for before, after in zip(one["history"], one["history"][1:], strict=False):
        unchanged = [name for name, value in after.items() if torch.equal(value, before[name])]
        assert unchanged == []
    assert one["skipped"] == two["skipped"] == 0


def test_both_ranks_leave_out_a_step_that_breaks_on_one(games):
    def viewmaker(state: dict) -> list[torch.Tensor]:
        return [value for name, value in state.items() if "viewmaker" in name]

    one, two = ([viewmaker(state) for state in rank["history"]] for rank in games["broken"])
    assert all(torch.equal(a, b) for a, b in zip(one[-1], two[-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one[-1], one[-2], strict=True))
    assert all(value.isfinite().all() for value in one[-1])
    assert [rank["skipped"] for rank in games["broken"]] == [1, 1]
