"""torchvision: a trained or a random viewmaker as one of its transforms, also in the workers of a DataLoader."""

from typing import Any

import torch

from viewaug import Viewmaker
from viewaug.samples import SampleTransform

try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ImportError as error:
    raise ImportError("viewaug.adapters.torchvision needs torchvision: pip install torchvision") from error


class ViewmakerTransform(v2.Transform):
    """Views of images by a viewmaker that does not learn here; boxes, masks and everything else stay as they are.

    No gradient leaves the worker of a DataLoader, so that a viewmaker is trained elsewhere, and random views need no
    training. Noise is drawn for each image by torch's own generator, which workers seed.

    Args:
        viewmaker: one of 2 dims, whose ``value_range`` is that of the images: after ``ToDtype(torch.float32,
            scale=True)``, and before ``Normalize``.

    Shape:
        - images: ``(..., channels, H, W)``, floats.

    Raises:
        TypeError: if `viewmaker` is not one, or images are not floats.
        ValueError: if it mixes samples, of which a transform has one; or if it moves pixels while there are boxes,
            masks or keypoints, which would stay.

    Examples:
        >>> from torchvision.transforms import v2
        >>> viewmaker = viewaug.Viewmaker(generator="random", budget=0.05)
        >>> transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), ViewmakerTransform(viewmaker)])
        >>> transform(torch.zeros(3, 32, 32, dtype=torch.uint8)).mean() > 0
        tensor(True)
    """

    def __init__(self, viewmaker: Viewmaker) -> None:
        super().__init__()
        self._views = SampleTransform(viewmaker)
        if viewmaker.dims != 2:
            raise ValueError(f"Expected `viewmaker` to have 2 dims, but got {viewmaker.dims}.")
        self.viewmaker = viewmaker

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse what would stay where it was while pixels move."""
        others = tuple(
            kind for name in ("BoundingBoxes", "Mask", "KeyPoints") if (kind := getattr(tv_tensors, name, None))
        )
        found = next((type(part).__name__ for part in flat_inputs if isinstance(part, others)), None)
        if found and self.viewmaker.perturbation.geometric:
            name = type(self.viewmaker.perturbation).__name__
            raise ValueError(
                f"Expected no {found} beside the image: the perturbation {name} moves pixels, but not that."
            )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return a view of an image, and anything else as it is."""
        if isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.Mask)) or not isinstance(inpt, torch.Tensor):
            return inpt
        if not inpt.is_floating_point():
            raise TypeError(
                f"Expected images of floats, as by v2.ToDtype(torch.float32, scale=True), but got {inpt.dtype}."
            )
        return self._views.view(inpt)
