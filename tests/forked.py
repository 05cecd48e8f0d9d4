"""Commands of Python, in processes forked from one that has other packages' imports behind it, which take seconds."""

import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "kornia.augmentation", "lightning.pytorch", "lightly.loss", "timm", "scipy.stats", "pytest"]
)


class Forked:
    """``python ...``, in a session of its own, so that all its processes can be killed.

    Args:
        command: a file, ``-m`` and a module, or ``-c`` and code, and their arguments.
        cwd: where it runs.
        env: its variables, all of them; None for those of this process.
    """

    def __init__(
        self, command: Sequence[object], *, cwd: str | Path = ".", env: Mapping[str, str] | None = None
    ) -> None:
        self.command = [str(word) for word in command]
        self._folder = tempfile.TemporaryDirectory()
        streams = [Path(self._folder.name) / name for name in ("out", "err")]
        for stream in streams:
            stream.touch()
        self._streams = streams
        variables = dict(os.environ if env is None else env)
        arguments = (self.command, str(cwd), variables, [*map(str, streams)], _path())
        self._process = CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it has ended within some seconds."""
        self._process.join(timeout)
        return self._process.exitcode is not None

    def result(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Return what :func:`subprocess.run` would, when it has ended; kill it if it takes longer."""
        if not self.wait(timeout):
            self.kill()
            raise subprocess.TimeoutExpired(self.command, timeout or 0)
        out, err = (stream.read_text() for stream in self._streams)
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.command, self._process.exitcode or 0, out, err)

    def kill(self) -> None:
        """Kill it with all its processes."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self.result()


def run(
    command: Sequence[object],
    *,
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    timeout: float | None = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return Forked(command, cwd=cwd, env=env).result(timeout)


@functools.cache
def _path() -> list[str]:
    """Return where a new interpreter looks for modules beside its own folder."""
    code = "import sys; print(*sys.path[1:], sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).splitlines()


def _run(command: list[str], cwd: str, variables: dict[str, str], streams: list[str], path: list[str]) -> None:
    os.setsid()
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    warnings.simplefilter("ignore")
    first, *rest = command
    folders = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [str(Path.cwd()) if first.startswith("-") else str(Path(first).parent), *folders, *path]
    if first.startswith("-"):
        first, *rest = rest
    sys.argv = [first, *rest]
    if command[0] == "-m":
        runpy.run_module(first, run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv[0] = "-c"
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(first, module.__dict__)
    else:
        runpy.run_path(first, run_name="__main__")
