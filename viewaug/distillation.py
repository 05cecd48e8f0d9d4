"""The fixed recipe that is nearest to what a viewmaker has learned: random views with its ranges, without a network."""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewaug._code import rounded, viewmaker_code
from viewaug.explanation import VIEW, Explanation, batches, explain, input_share, random_twin, summarise
from viewaug.generators import RandomGenerator
from viewaug.perturbations import Affine, Blur, Colour, Compound, Crop, Perturbation, Sequential, leaves
from viewaug.perturbations.change import band_energy
from viewaug.viewmaker import Viewmaker

Range = tuple[float, float]
#: A class of kornia's, and its arguments.
Step = tuple[str, dict[str, Any]]

_TITLE = '"""A fixed recipe: random views with the ranges of a learned viewmaker, without a network."""\n\n'
_POINTS = 256  # of each map of a view, of which ranges are counted


@dataclass(frozen=True)
class Recipe:
    """A fixed recipe.

    Attributes:
        viewmaker: a random one, whose raw output has the ranges of the learned one's.
        kornia: the steps of an ``AugmentationSequential``, where there is one.
        explanation: of the learned viewmaker.
    """

    viewmaker: Viewmaker
    kornia: list[Step] | None
    explanation: Explanation

    @property
    def ranges(self) -> dict[str, Range]:
        """Where 90 % of each magnitude of the perturbations lie, by names that end in their units."""
        return {
            name: (found.low, found.high)
            for name, values in self.explanation.learned.items()
            if not name.startswith(f"{VIEW}: ")
            for found in [summarise(values)]
        }

    @property
    def lost(self) -> list[str]:
        """Sentences on what it cannot hold."""
        found = self.explanation
        shares = {name: input_share(found.learned[name]) or 0.0 for name in found.departed}
        most = max((name for name in shares if name in self.ranges), key=shares.__getitem__, default=None)
        most = most or max(shares, key=shares.__getitem__, default=None)
        depends = f": most of {most!r}, {100 * shares[most]:.0f} % of whose variance is the input's" if most else ""
        return [
            f"What depends on the input{depends}.",
            "How magnitudes go together: each is drawn by itself.",
            "The place and the pattern of a change, but for those of the random twin.",
        ]

    def files(self) -> dict[str, str]:
        """Return it as Python and YAML, by the names of files, none of which hides a package."""
        head = _comment([f"{name}: {low:.3g} to {high:.3g}" for name, (low, high) in self.ranges.items()])
        yaml = "".join(f"{name}: {json.dumps(value)}\n" for name, value in self.viewmaker.config.items())
        found = {
            "random_viewmaker.py": f"{_TITLE}from viewaug import Viewmaker\n\n"
            f"{head}viewmaker = {viewmaker_code(self.viewmaker)}\n",
            "random_viewmaker.yaml": head + yaml,
        }
        if self.kornia is not None:
            steps = "".join(f"    K.{name}({_arguments(arguments)}),\n" for name, arguments in self.kornia)
            found["augmentation.py"] = (
                f"{_TITLE}import kornia.augmentation as K\n\n"
                f'{head}augmentation = K.AugmentationSequential(\n{steps}    data_keys=["input"],\n)\n'
            )
            yaml = "".join(f"- {name}: {json.dumps(arguments)}\n" for name, arguments in self.kornia)
            found["augmentation.yaml"] = head + yaml
        return found


def distil(viewmaker: Viewmaker, x: Tensor, *, views: int = 16, seed: int = 0) -> Recipe:
    """Find the fixed recipe that is nearest to a viewmaker: random views with its ranges, without a network.

    It is a viewmaker with the generator ``"random"`` and the same perturbation, budget and strength. White noise is
    filtered, stretched and shifted such that the 5th and the 95th percentile of each raw output, and the spectrum of
    each map, are those of the learned one. Of images, where nothing has a budget, and affine, blur, colour and crop are
    all there is, there is a pipeline of kornia's as well, which draws each magnitude uniformly between these
    percentiles.

    Args:
        viewmaker: with the generator ``"fast"``, or ``"random"``.
        x: inputs, ``(N, C, *spatial)``, as it takes them.
        views: of each input, by different noise.
        seed: of the noise.

    Raises:
        TypeError: as of :func:`viewaug.explain`.
        ValueError: as of :func:`viewaug.explain`, and for other generators, whose raw output is no noise and a
            departure from it.

    Examples:
        >>> viewmaker = viewaug.Viewmaker(perturbation="crop", budget=None)
        >>> recipe = viewaug.distil(viewmaker, torch.rand(8, 3, 16, 16))
        >>> recipe.viewmaker(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
        >>> [name for name, arguments in recipe.kornia]
        ['RandomResizedCrop', 'RandomHorizontalFlip']
    """
    explanation = explain(viewmaker, x, views=views, seed=seed)
    if not isinstance(viewmaker.generator, RandomGenerator):
        kind = type(viewmaker.generator).__name__
        raise ValueError(
            f"Expected `viewmaker` to have the generator 'fast' or 'random', but got {kind}, of which nothing but its "
            "budget can be kept: take its random twin."
        )
    random = random_twin(viewmaker, **_shape(viewmaker, explanation, views, seed))
    return Recipe(random, _kornia(viewmaker, explanation), explanation)


def _shape(viewmaker: Viewmaker, explanation: Explanation, views: int, seed: int) -> dict[str, Any]:
    """Return the ranges of what the generator makes, and the spectra of its maps."""
    maps, numbers = _kept(copy.deepcopy(viewmaker.perturbation), viewmaker.channels, viewmaker.dims)
    values: list[list[Tensor]] = [[] for _ in (*maps, *numbers)]
    levels, energies = [], []
    for _, part, seen in batches(viewmaker, explanation.x, views, seed):
        fields, count = seen.made.maps[:, maps].cpu(), part[0, 0].numel()
        some = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_POINTS]
        made = [*fields.flatten(2)[..., some].unbind(1), *seen.made.numbers[:, numbers].cpu().unbind(1)]
        for found, new in zip(values, made, strict=True):
            found.append(new.flatten())
        if maps:
            levels.append(fields.flatten(2).mean(2) * math.sqrt(count))
            energies.append(band_energy(fields))
    ranges = [_range(torch.cat(found)) for found in values]
    if not maps:
        return {"ranges": ranges}
    energy = torch.cat(energies).mean(0)
    # What is the same in all views is in the ranges' middle, and no part of the spectrum.
    middle = torch.tensor(ranges[: len(maps)]).mean(1) * math.sqrt(explanation.x[0, 0].numel())
    energy[:, 0] = (torch.cat(levels) - middle).square().mean(0)
    shares = energy / energy.sum(1, keepdim=True)
    return {"ranges": ranges, "spectrum": [[rounded(share) for share in each] for each in shares.tolist()]}


def _kept(perturbation: Perturbation, channels: int, dims: int) -> tuple[list[int], list[int]]:
    """Return which maps and numbers of a perturbation its random twin has, too: of maps the last ones."""
    whole = perturbation.needs(channels, dims)
    if not isinstance(perturbation, Compound):
        twin = perturbation.twin_needs(channels, dims)
        return [*range(whole.maps - twin.maps, whole.maps)], [*range(whole.numbers)]
    maps: list[int] = []
    numbers: list[int] = []
    before_maps = before_numbers = 0
    for step in perturbation:
        mine = _kept(step, channels, dims)
        maps += [before_maps + i for i in mine[0]]
        numbers += [before_numbers + i for i in mine[1]]
        needs = step.needs(channels, dims)
        before_maps, before_numbers = before_maps + needs.maps, before_numbers + needs.numbers
    return maps, [*numbers, *range(before_numbers, whole.numbers)]


def _range(values: Tensor) -> list[float]:
    found = summarise(values)
    return [rounded(found.low), rounded(found.high)]


def _kornia(viewmaker: Viewmaker, explanation: Explanation) -> list[Step] | None:
    """Return the steps of a pipeline of kornia's, or None where there is none."""
    whole = viewmaker.perturbation
    if viewmaker.dims != 2 or (isinstance(whole, Compound) and not isinstance(whole, Sequential)):
        return None
    steps: list[Step] = []
    seen: dict[str, int] = {}
    for leaf, budget in leaves(whole, viewmaker.budget):
        if budget is not None or type(leaf) not in _AS_KORNIA or (leaf.unit_range and viewmaker.value_range != (0, 1)):
            return None
        kind = type(leaf).__name__.lower()
        seen[kind] = seen.get(kind, 0) + 1
        part = f"{kind}: " if seen[kind] == 1 else f"{kind} {seen[kind]}: "
        mine = {name.removeprefix(part): v for name, v in explanation.learned.items() if name.startswith(part)}
        ranges = {name.partition(" [")[0]: tuple(_range(values)) for name, values in mine.items()}
        steps += _AS_KORNIA[type(leaf)](leaf, ranges, viewmaker.channels, explanation.x.shape[2:])
    return steps


def _affine(leaf: Any, ranges: Mapping[str, Any], channels: int, size: Sequence[int]) -> list[Step]:
    return [
        (
            "RandomAffine",
            {
                "degrees": [*ranges["rotation"]],
                "translate": [max(map(abs, ranges[f"translation {axis}"])) for axis in "WH"],
                "scale": [*ranges["scale W"], *ranges["scale H"]],
                "shear": [*ranges["shear W"], *ranges["shear H"]],
                "padding_mode": "reflection",
                "p": 1.0,
            },
        )
    ]


def _blur(leaf: Any, ranges: Mapping[str, Any], channels: int, size: Sequence[int]) -> list[Step]:
    ends = [sum(pair) / 2 for pair in zip(ranges["sigma H"], ranges["sigma W"], strict=True)]
    reach = min(math.ceil(3 * ends[1]), (min(size) - 1) // 2)  # an edge is mirrored once
    sigma = [rounded(max(end, 1e-3)) for end in ends]
    return [("RandomGaussianBlur", {"kernel_size": [2 * max(1, reach) + 1] * 2, "sigma": sigma, "p": 1.0})]


def _colour(leaf: Any, ranges: Mapping[str, Any], channels: int, size: Sequence[int]) -> list[Step]:
    low, high = ranges["brightness"]
    steps: list[Step] = [
        ("RandomBrightness", {"brightness": [rounded(1 + low), rounded(1 + high)]}),
        ("RandomContrast", {"contrast": [*ranges["contrast"]]}),
        ("RandomGamma", {"gamma": [*ranges["gamma"]]}),
    ]
    if channels == 3:
        steps += [
            ("RandomSaturation", {"saturation": [*ranges["saturation"]]}),
            ("RandomHue", {"hue": [rounded(end / 360) for end in ranges["hue"]]}),
        ]
    return steps


def _crop(leaf: Any, ranges: Mapping[str, Any], channels: int, size: Sequence[int]) -> list[Step]:
    height, width = size
    crop = {
        "size": [height, width],
        "scale": [*ranges["area"]],
        "ratio": [rounded(end * width / height) for end in ranges["ratio W/H"]],
        "cropping_mode": "resample",
    }
    return [("RandomResizedCrop", crop), *([("RandomHorizontalFlip", {"p": leaf.flip})] if leaf.flip else [])]


_AS_KORNIA: dict[type[Perturbation], Callable[..., list[Step]]] = {
    Affine: _affine,
    Blur: _blur,
    Colour: _colour,
    Crop: _crop,
}


def _arguments(arguments: Mapping[str, Any]) -> str:
    parts = [f"{name}={tuple(v) if isinstance(v, list) else v!r}" for name, v in arguments.items()]
    line = ", ".join(parts)
    return line if len(line) < 80 else "".join(f"\n        {part}," for part in parts) + "\n    "


def _comment(lines: Sequence[str]) -> str:
    return "".join(f"# {line}\n" for line in ("Where 90 % of what was learned lies:", *lines)) if lines else ""
