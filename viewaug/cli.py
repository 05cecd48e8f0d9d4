"""The command line: ``viewaug COMMAND``, one of `COMMANDS`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import viewaug

# Each command is a module with a `main(arguments)`. This table stands above the whole package, examples included, and
# nothing imports it; the modules are imported when they are called.
COMMANDS = {
    "compare": ("viewaug.commands.compare", "find out which views some data need: the main job"),
    "demo": ("viewaug.examples.demo", "a quick look at three real data sets, whose answers differ"),
    "views": ("viewaug.commands.views", "draw inputs, views of a saved viewmaker, and the differences"),
    "diagnose": (
        "viewaug.commands.diagnose",
        "measure which labels the views of a saved viewmaker destroy",
    ),
    "explain": (
        "viewaug.commands.explain",
        "say what a saved viewmaker has learned, in degrees, decibels, shares, ...",
    ),
    "distil": ("viewaug.commands.distil", "write the nearest fixed recipe, as Python and YAML, without a network"),
    "extract": ("viewaug.commands.extract", "write the viewmaker in a host's checkpoint to a file of its own"),
    "hub": ("viewaug.commands.hub", "list the trained viewmakers that come with the package, or print a card"),
    "doctor": ("viewaug.commands.doctor", "print versions, devices and optional packages, and run a self-test"),
    "info": ("viewaug.commands.info", "print a saved viewmaker's configuration, cost and distortion"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="viewaug",
        description=viewaug.__doc__,
        epilog="commands:\n" + "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"viewaug {viewaug.__version__}")
    parser.add_argument(
        "command", choices=COMMANDS, metavar="command", help="one of those below; each has its own --help"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    module = importlib.import_module(COMMANDS[parsed.command][0])
    return int(module.main(parsed.arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
