"""Random generators that depend on a place in a training only, so that what is resumed goes on as it would have."""

import random

import torch


def generator_at(seed: int, epoch: int, batch: int, rank: int, device: torch.device) -> torch.Generator:
    """Return a generator for one batch of one process."""
    return torch.Generator(device).manual_seed(random.Random(repr((seed, epoch, batch, rank))).getrandbits(63))
