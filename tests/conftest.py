"""What tests share: processes, and a disk without room."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

PRELOADED = ["viewaug.viewmaker", "viewaug.metrics", "torch._dynamo", "pytest", "scipy.stats"]


@pytest.fixture(scope="session")
def processes(tmp_path_factory) -> Callable[..., Any]:
    """Return what starts ``function(rank, folder, *arguments)`` in processes, and gives the folder, and them.

    They are forked from one that has the imports behind it, which take longer than what they do.
    """
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def start(function: Callable[..., None], ranks: int, *arguments: object, join: bool = True) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("ranks")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(Path(__file__).parents[1])  # where the processes find the function
            running = torch.multiprocessing.start_processes(
                function, (str(folder), *arguments), nprocs=ranks, start_method="forkserver", join=join
            )
        return folder, running

    return start


@pytest.fixture
def no_room() -> Callable[[int], Any]:
    """Return a context in which no file can become larger than so many bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
