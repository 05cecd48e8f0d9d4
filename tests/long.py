"""Thousands of adversarial steps of every family: memory stays flat, nothing becomes NaN, and views stay diverse.

Diversity is how much two views differ, over how much a view differs from its input, in the second half of a training.
At one step in a hundred the viewmaker's gradients are made infinite or NaN. In float16 a GradScaler leaves these steps
out, and those whose gradients it had scaled too high.

python tests/long.py [FAMILY ...] [--steps 20000] [--autocast float16]
"""

import argparse
import contextlib
import random
import resource
import time
import warnings

import torch
from torch import nn

from viewaug import AdversarialAugmentation, BudgetController, JointOptimizer, Viewmaker
from viewaug.perturbations import PERTURBATIONS

SERIES = ("gain", "filter")
OWN = ("mix", "mask", "crop", "channels")  # which their own options bound


def run(name: str, steps: int, dtype: torch.dtype | None) -> None:
    """Train, and raise an AssertionError where something is not as it should be."""
    torch.manual_seed(0)
    draw, dims = random.Random(0), 1 if name in SERIES else 2
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    encoder = nn.Sequential(conv(3, 8, 3, 2, 1), nn.ReLU(), conv(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(2))
    viewmaker = Viewmaker(
        dims=dims, perturbation=name, budget=None if name in OWN else 0.05, width=8, depth=1, value_range=(0.0, 1.0)
    )
    augmentation = AdversarialAugmentation(viewmaker)
    optimizer = JointOptimizer(torch.optim.Adam(encoder.parameters(), 1e-3), viewmaker.parameters(), lr=3e-3)
    controller = BudgetController(viewmaker, unrelated=torch.tensor(15.0).log().item(), target=0.2)
    data = nn.functional.interpolate(torch.rand(256, 3, *(4,) * dims), scale_factor=3.0)
    # The scale falls at each broken step, so that it has to rise as often.
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, growth_interval=20)
    broken = fallen = 0
    diversity = []
    began, memory = time.monotonic(), 0
    for step in range(steps):
        x = data[torch.randint(len(data), (16,))]
        with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
            views = augmentation.views(x)
            z = [nn.functional.normalize(encoder(view).mean(2), dim=1) for view in views]
            loss = nn.functional.cross_entropy(z[0] @ z[1].T / 0.1, torch.arange(16))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if draw.random() < 0.01:
            broken += 1
            grads = [p.grad for p in viewmaker.parameters() if p.grad is not None]
            draw.choice(grads).view(-1)[0] = draw.choice([torch.inf, torch.nan])
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        fallen += scaler.get_scale() < scale
        controller.step(loss.detach())
        if step >= steps // 2:
            one, two = views[0].detach(), views[1].detach()
            diversity.append(((one - two).abs().mean() / (one - x).abs().mean()).item())
        if step == steps // 5:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skipped = optimizer.skipped_steps
    if scaler.is_enabled():
        assert broken <= fallen < broken + steps / 10, f"{fallen} steps left out of {broken} that were broken"
    else:
        assert skipped == broken, f"{skipped} steps left out of {broken} that were broken"
    assert all(p.isfinite().all() for p in viewmaker.parameters()), "a weight is not finite"
    assert grown < 20, f"{grown:.0f} MB more than after a fifth of the steps"
    low, high = controller.bounds
    assert low <= controller.value <= high
    mean = sum(diversity) / len(diversity)
    assert mean > 0.2, f"two views differ by {mean:.2f} of what a view differs from its input"
    print(
        f"{name}: {steps} steps in {time.monotonic() - began:.0f} s, {broken} broken, {max(skipped, fallen)} left out, "
        f"loss {loss.item():.2f}, {controller.steered} {controller.value:.3f}, "
        f"diversity {mean:.2f} ({min(diversity):.2f} to {max(diversity):.2f}), {grown:.1f} MB more",
        flush=True,
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in PERTURBATIONS if name != "kornia"]
    parser.add_argument("what", nargs="*", default=names, metavar="FAMILY", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.what:
        run(name, options.steps, options.autocast and getattr(torch, options.autocast))


if __name__ == "__main__":
    main()
