"""List the trained viewmakers that come with the package, or print the card of one."""

import argparse
from collections.abc import Sequence

from viewaug import hub
from viewaug.checkpoints import FILE, TRAINED, load, shipped


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="viewaug hub", description=__doc__)
    parser.add_argument("name", nargs="?", help="whose card to print; a folder of one's own may be given")
    options = parser.parse_args(arguments)
    try:
        if options.name is not None:
            hub.read_card(options.name)  # or an error, where it is another's
            print(hub.card_file(options.name).read_text(encoding="utf-8"))
            return
        rows = shelf()
    except (OSError, ValueError) as error:
        parser.exit(1, f"viewaug hub: {error}\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print("\nviewaug.load(NAME) in Python, frozen:NAME or warm:NAME in viewaug compare, viewaug hub NAME for its card.")


def shelf() -> list[list[str]]:
    """Return a table of the viewmakers of the package, the head first."""
    rows = [["name", "made for", "channels", "dims", "budget", "kB"]]
    for name in shipped():
        viewmaker = load(name)
        size = (TRAINED / name / FILE).stat().st_size / 1000
        cells = (viewmaker.channels, viewmaker.dims, f"{viewmaker.budget:.2f}", f"{size:.0f}")
        rows.append([name, hub.read_card(name)["made for"], *map(str, cells)])
    return rows
