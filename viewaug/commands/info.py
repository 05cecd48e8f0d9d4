"""Say what a saved viewmaker is, what it costs and how much it changes."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import viewaug
from viewaug.commands._arguments import positive, seed
from viewaug.commands._signals import read_signals, signal_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(
        prog="viewaug info", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="file that viewaug.save wrote")
    parser.add_argument(
        "--images", type=Path, help="folder of inputs to measure on, as for `viewaug views`; None: uniform noise"
    )
    parser.add_argument("--count", type=positive(int), default=64, help="inputs to measure on")
    parser.add_argument("--size", type=positive(int), help="side or length; None: that of the smallest input, or 32")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise")
    options = parser.parse_args(arguments)
    try:
        viewmaker = viewaug.load(options.checkpoint).float()
        generator = torch.Generator().manual_seed(options.seed)
        if options.images is None:
            source = "uniform noise"
            low, high = viewmaker.value_range or (-math.sqrt(3), math.sqrt(3))  # of variance 1
            shape = (options.count, viewmaker.channels, *(options.size or 32,) * viewmaker.dims)
            x = low + (high - low) * torch.rand(shape, generator=generator)
        else:
            source = str(options.images)
            x = read_signals(signal_files(options.images, viewmaker, options.count), viewmaker, options.size)
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            viewmaker(x[:1], viewmaker.draw_noise(x[:1], generator))
        with torch.no_grad():
            parts = [
                viewaug.distortion(part, viewmaker(part, viewmaker.draw_noise(part, generator))) for part in x.split(8)
            ]
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug info: {error}\n")

    size = "x".join(map(str, x.shape[1:]))
    realised = torch.cat(parts)
    lines = {
        **viewmaker.config,
        "parameters": f"{sum(parameter.numel() for parameter in viewmaker.parameters()):,}",
        "multiply-adds": f"{flops.get_total_flops() / 2:,.0f} a view of {size}, in convolutions and matrix products",
        "distortion": f"mean {realised.mean():.4g}, from {realised.min():.4g} to {realised.max():.4g}, "
        f"of {len(x)} views of {size} from {source}",
    }
    for name, value in lines.items():
        print(f"{name:14} {value}")
