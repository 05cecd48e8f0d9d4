"""Views of one sample at a time: a transform of a data set, also in the workers of its DataLoader."""

from typing import Any

import torch
from torch import Tensor

from viewaug._batches import Spec, describe, find_views, get, is_signal, put
from viewaug.adversary import check_values
from viewaug.perturbations import leaves
from viewaug.viewmaker import Viewmaker, check_viewmaker


class SampleTransform:
    """A viewmaker that does not learn here, as a transform of single samples, wherever a callable is taken.

    No gradient leaves the worker of a DataLoader, so that a viewmaker is trained elsewhere, and random views need no
    training. Noise is drawn for each sample by torch's own generator, which workers seed. Subclasses of a tensor, such
    as MONAI's, stay what they are, and what is beside the sample stays as it is.

    Args:
        viewmaker: the viewmaker, whose ``value_range`` is that of the samples.
        views: where the inputs are in a sample that is a dictionary or a tuple: a path, such as ``"image"``, or
            several. None for a tensor, the first element, or ``image``.

    Shape:
        - inputs: ``(..., channels, *spatial)``, floats.

    Raises:
        TypeError: if `viewmaker` is not one, or nothing in a sample is an input.
        ValueError: if it mixes samples, of which there is one; if `views` is no path in the sample; or for values
            outside the range.

    Examples:
        >>> transform = SampleTransform(viewaug.Viewmaker(generator="random", budget=0.05))
        >>> view, label = transform((torch.rand(3, 32, 32), 7))
        >>> view.shape, label
        (torch.Size([3, 32, 32]), 7)
    """

    def __init__(self, viewmaker: Viewmaker, *, views: Spec | None = None) -> None:
        check_viewmaker(viewmaker)
        mixing = [type(leaf).__name__ for leaf, _ in leaves(viewmaker.perturbation, None) if leaf.batched]
        if mixing:
            raise ValueError(
                f"Expected `viewmaker` to need one sample at a time, but {mixing[0]} mixes those of a batch."
            )
        self.viewmaker, self.views = viewmaker, views

    def __call__(self, sample: Any) -> Any:
        """Return the sample with views in the places of its inputs."""
        places = find_views(sample, self.views, lambda part: is_signal(part, self.viewmaker))
        if not places:
            dims = ", ".join(("channels", *"DHW"[3 - self.viewmaker.dims :]))
            raise TypeError(f"Expected a sample with floats of shape ({dims}), but got {describe(sample)}.")
        return put(sample, {place: self.view(get(sample, place)) for place in places})

    @torch.no_grad()
    def view(self, x: Tensor) -> Tensor:
        """Return a view of a tensor, of the same class."""
        plain = x.as_subclass(Tensor)
        batch = plain.reshape(-1, *plain.shape[-self.viewmaker.dims - 1 :])
        check_values(batch, self.viewmaker)
        view = self.viewmaker(batch).reshape(plain.shape)
        if type(x) is Tensor:
            return view
        same = x.detach().clone()
        same.as_subclass(Tensor).copy_(view)
        return same
