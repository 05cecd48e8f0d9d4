"""What the grids add to the names of :mod:`viewaug.comparison.views`, and the names that older result files have."""

from dataclasses import dataclass

#: How older result files name kinds of views, and how today's do.
FORMER = {
    "viewmaker": "learned",
    "crop+viewmaker": "crop/learned",
    "expert+viewmaker": "expert/learned",
    "viewmaker+waveform": "waveform/learned",
    "viewmaker+spectral": "expert/learned",
    "waveform-viewmaker": "waveform-learned",
    "spectral": "expert",
}


@dataclass(frozen=True)
class Variant:
    """What a method is beside its views.

    Attributes:
        shared: how likely both views of a pair show the same overlay, or have the same noise.
        in_turns: whether both players learn in turns, with the original network, loss and lack of a clamp.
        waveforms: whether a viewmaker perturbs waveforms, not spectrograms.
        steered: whether a controller adapts the budget, by its own default difficulty if the settings have none.
    """

    shared: float = 1.0
    in_turns: bool = False
    waveforms: bool = False
    steered: bool = False


def modern(name: str) -> str:
    """Return today's name of a method.

    Examples:
        >>> [modern(name) for name in ("crop+viewmaker:random+mix@steered", "viewmaker@0.1", "learned:mask")]
        ['crop/random:mix@steered', 'learned@0.1', 'learned:mask']
    """
    rest, at, strength = name.partition("@")
    base, colon, kinds = rest.partition(":")
    if base not in FORMER:
        return name
    base, (first, _, others) = FORMER[base], kinds.partition("+")
    if first == "random":
        base, colon, kinds = base.replace("learned", "random"), ":" * bool(others), others
    return base + colon + kinds + at + strength
