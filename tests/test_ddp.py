"""Two and four processes, one game: both players stay equal on all ranks, whatever happens on one of them."""

import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from viewaug import AdversarialAugmentation, BudgetController, JointOptimizer, Viewmaker

STEPS = 3


class Players(nn.Module):
    def __init__(self, **options: float) -> None:
        super().__init__()
        viewmaker = Viewmaker(1, width=8, depth=1)
        self.augmentation = AdversarialAugmentation(viewmaker, mean=0.5, std=0.25, **options)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.augmentation.views(x)
        return (self.encoder(one) * self.encoder(two)).mean()


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def joint(players: Players) -> JointOptimizer:
    base = torch.optim.SGD(players.encoder.parameters(), lr=0.1, momentum=0.9)
    return JointOptimizer(base, players.augmentation.parameters(), lr=1e-2)


def play(
    rank: int,
    *,
    broken: int | None = None,
    last: tuple[int, ...] = (4, 4, 4, 4),
    fewer: int = 0,
    compiled: str | None = None,
) -> dict:
    """Play a game.

    Args:
        rank: of this process.
        broken: the step at which the loss of rank 1 is infinite.
        last: how large the last batch is, by rank.
        fewer: how many batches rank 1 lacks.
        compiled: by which backend.
    """
    torch.manual_seed(rank)  # other weights to begin with, other noise
    model = DistributedDataParallel(Players(warmup=2))
    players, optimizer = model.module, joint(model.module)
    loss_of = torch.compile(model, backend=compiled) if compiled else model
    history = [weights(players)]
    torch.manual_seed(10 + rank)
    with model.join(enable=fewer > 0):
        for step in range(STEPS - (fewer if rank == 1 else 0)):
            loss = loss_of(torch.rand(last[rank] if step == STEPS - 1 else 4, 1, 8, 8))
            if rank == 1 and step == broken:
                loss = loss * float("inf")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(weights(players))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"history": history, "skipped": optimizer.skipped_steps}


def go_on(rank: int, folder: str, *, resume: bool, keep: bool = False) -> dict:
    """Play on the same batches with the same noise on all ranks, so that what comes out is that of one process."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Players())
    optimizer, viewmaker = joint(model.module), model.module.augmentation.viewmaker
    controller = BudgetController(viewmaker, unrelated=1.0)
    parts = {"players": model.module, "optimizer": optimizer, "controller": controller}
    if resume:
        states = torch.load(f"{folder}/kept.pt", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(states[name])
    torch.manual_seed(2 if resume else 1)
    for _ in range(2):
        loss = model(torch.rand(4, 1, 8, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss)
    if keep and rank == 0:
        torch.save({name: part.state_dict() for name, part in parts.items()}, f"{folder}/kept.pt")
    return {"weights": weights(model.module), "budget": viewmaker.budget}


Games = dict[str, tuple[int, Callable[..., dict], dict]]
GAMES: Games = {  # how many ranks play what
    "two": (2, play, {}),
    "four": (4, play, {}),
    "broken": (2, play, {"broken": STEPS - 1}),
    "broken of four": (4, play, {"broken": STEPS - 1}),
    "last batch": (4, play, {"last": (4, 2, 1, 3)}),
    "fewer batches": (2, play, {"fewer": 1}),
    "compiled": (2, play, {"compiled": "aot_eager"}),
    "begun by two": (2, go_on, {"resume": False, "keep": True}),
    "ended by two": (2, go_on, {"resume": True}),
    "ended by four": (4, go_on, {"resume": True}),
    "ended by one": (1, go_on, {"resume": True}),
}
INDUCTOR: Games = {"compiled": (2, play, {"compiled": "inductor"})}


def meet(folder: str, name: str, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=ranks, timeout=timedelta(minutes=10)
    )


def worker(rank: int, folder: str, games: Games) -> None:
    for name, (ranks, game, options) in games.items():
        if rank < ranks:
            meet(folder, name, rank, ranks)
            arguments = (rank,) if game is play else (rank, folder)
            torch.save(game(*arguments, **options), f"{folder}/{name}-{rank}.pt")
            dist.barrier()
            dist.destroy_process_group()


def dying(rank: int, folder: str) -> None:
    """Play until rank 2 is killed in the middle of a step; the others say how they ended."""
    meet(folder, "dying", rank, 4)
    model = DistributedDataParallel(Players())
    optimizer, controller = joint(model.module), BudgetController(model.module.augmentation.viewmaker, unrelated=1.0)
    began = time.monotonic()
    try:
        for step in range(10**6):
            loss = model(torch.rand(4, 1, 8, 8))
            if rank == 2 and step == STEPS:
                os.kill(os.getpid(), signal.SIGKILL)
            loss.backward()
            optimizer.step()
            controller.step(loss)
            began = time.monotonic()
    except RuntimeError as error:
        Path(f"{folder}/{rank}.txt").write_text(f"{time.monotonic() - began}\n{error}")
        os._exit(1)


def results(folder: Path, games: Games) -> dict[str, list[dict]]:
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(ranks)]
        for name, (ranks, *_) in games.items()
    }


@pytest.fixture(scope="module")
def games(processes) -> dict[str, list[dict]]:
    """All games from all ranks, played by the same four processes."""
    folder, _ = processes(worker, 4, GAMES)
    return results(folder, GAMES)


def check(ranks: list[dict]) -> None:
    """Raise unless all ranks have the same weights after each step, and all of these have moved."""
    first, *others = ranks
    for other in others:
        for now, same in zip(first["history"], other["history"], strict=True):
            assert all(torch.equal(value, same[name]) for name, value in now.items())
    for before, after in zip(first["history"], first["history"][1:], strict=False):
        unchanged = [name for name, value in after.items() if torch.equal(value, before[name])]
        assert unchanged == []
    assert [rank["skipped"] for rank in ranks] == [0] * len(ranks)


@pytest.mark.parametrize("name", ["two", "four", "last batch", "compiled"])
def test_both_players_are_equal_and_learn(games, name):
    check(games[name])


def test_compiled_as_not(games):
    one, other = (games[name][0]["history"][-1] for name in ("compiled", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a compiler")
def test_compiled_by_inductor(processes):
    """Its noise is another one."""
    folder, _ = processes(worker, 2, INDUCTOR)
    check(results(folder, INDUCTOR)["compiled"])


def test_a_rank_with_fewer_batches(games):
    """The other one goes on alone, and both have its weights in the end."""
    one, two = games["fewer batches"]
    assert len(one["history"]) == len(two["history"]) + 1
    check([{**one, "history": one["history"][:-1]}, two])


@pytest.mark.parametrize("name", ["broken", "broken of four"])
def test_all_ranks_leave_out_a_step_that_breaks_on_one(games, name):
    def viewmaker(state: dict) -> list[torch.Tensor]:
        return [value for name, value in state.items() if "viewmaker" in name]

    one, *others = ([viewmaker(state) for state in rank["history"]] for rank in games[name])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one[-1], other[-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one[-1], one[-2], strict=True))
    assert all(value.isfinite().all() for value in one[-1])
    assert [rank["skipped"] for rank in games[name]] == [1] * len(games[name])


@pytest.mark.parametrize("name", ["ended by four", "ended by one"])
def test_another_number_of_ranks_goes_on(games, name):
    """Both players, their moments and the budget."""
    expected = games["ended by two"][0]
    for rank in games[name]:
        assert rank["budget"] == pytest.approx(expected["budget"])
        for part, value in rank["weights"].items():
            torch.testing.assert_close(value, expected["weights"][part], rtol=1e-4, atol=1e-6)
    assert expected["budget"] != games["begun by two"][0]["budget"] != 0.05


def test_a_rank_that_dies_ends_the_others(processes):
    folder, running = processes(dying, 4, join=False)
    for process in running.processes:
        process.join(90)
    assert [process.exitcode for process in running.processes] == [1, 1, -signal.SIGKILL, 1]
    for rank in (0, 1, 3):
        seconds, *error = (folder / f"{rank}.txt").read_text().splitlines()
        assert float(seconds) < 60
        assert "Connection" in error[0]
