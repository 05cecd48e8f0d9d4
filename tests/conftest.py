"""What tests share: processes, and a disk without room."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked  # noqa: F401, as it says what is imported
import pytest
import torch


@pytest.fixture(scope="session")
def processes(tmp_path_factory) -> Callable[..., Any]:
    """Return what starts ``function(rank, folder, *arguments)`` in processes, and gives the folder, and them.

    They are forked from one that has the imports behind it, of :mod:`forked`.
    """

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
