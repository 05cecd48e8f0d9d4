"""The sensors of Viewmaker Networks (Tamkin et al., ICLR 2021), and a smartwatch's, with a label for who and for what.

It is viewaug compare on these data, whose options follow; a killed run goes on where it was. The presets quick and cpu
take the smartwatch's readings that seglearn ships; paper takes the folder of PAMAP2.

python -m viewaug.examples.multitask_sensors --preset cpu --out DIR
python -m viewaug.examples.multitask_sensors --preset paper --data PAMAP2_Dataset --out DIR
python -m viewaug.examples.multitask_sensors report --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from viewaug.examples.npz import write_arrays
from viewaug.examples.pamap2 import pamap2
from viewaug.examples.smartwatch import smartwatch

from viewaug.commands import compare
from viewaug.comparison import Comparison

# Options of viewaug compare; the user's come after them.
PRESETS = {
    "quick": "--methods none learned --steps 2 --seeds 1 --trials 1 --workers 1",
    "cpu": "--methods untrained none noise mask channel-mask region mixup crop hard expert learned learned:mask "
    "learned:mix learned:blend+additive expert/learned --steps 400 --encoders 2 --seeds 5 --trials 3",
    # 200 epochs of 10,000 windows in batches of 128, as in the paper's code.
    "paper": "--methods none noise mask region mixup expert:specaugment learned:additive learned:spectral "
    "learned:blend+additive expert/learned --encoder resnet18 --batch 128 --steps 15600 --seeds 5 --trials 3",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the arrays, and compare views of them; or report only."""
    arguments = sys.argv[1:] if arguments is None else arguments
    only_report = list(arguments[:1]) == ["report"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", help="folder of PAMAP2, or smartwatch; default what the preset needs")
    parser.add_argument("--out", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--estimate", action="store_true", help="measure prices, and say how long it would take")
    options, rest = parser.parse_known_args(arguments[only_report:])
    rest += ["--estimate"] if options.estimate else []
    try:
        if only_report:
            found = Comparison.read(options.out / "results.json")
            print(f"{found.table}\n\n{found.verdict}")
            return
        source = options.data or ("smartwatch" if options.preset != "paper" else "PAMAP2_Dataset")
        write_arrays(options.out / "arrays", smartwatch() if source == "smartwatch" else pamap2(source))
    except (ImportError, OSError, ValueError) as error:
        parser.error(f"argument {'--out' if only_report else '--data'}: {error}")
    given = ["--data", str(options.out / "arrays"), "--out", str(options.out), *PRESETS[options.preset].split()]
    compare.main([*given, *rest])


if __name__ == "__main__":
    main()
