"""kornia: learned views as one of its augmentations, anywhere in a pipeline."""

from typing import Any, NoReturn

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from viewaug import Viewmaker, reverse_gradient
from viewaug.adversary import check_values
from viewaug.viewmaker import check_viewmaker


class RandomViewmaker(IntensityAugmentationBase2D):
    """A viewmaker as an augmentation of kornia's, which learns from whatever loss follows the pipeline.

    It stands anywhere in ``AugmentationSequential``, ``ImageSequential``, ``PatchSequential`` and ``VideoSequential``,
    before normalisation. Masks, boxes, keypoints and labels pass through; a viewmaker that moves pixels is refused
    beside masks, boxes and keypoints. All noise is recorded in ``_params``, from which a view can be replayed, and
    none in the state dict. As kornia's augmentations do, it perturbs in ``eval()``, too.

    The gradient is reversed around the viewmaker, so that an optimizer which lowers the loss over all parameters of
    the pipeline trains the viewmaker to raise it; best by :class:`viewaug.JointOptimizer`.

    Args:
        viewmaker: the viewmaker, for images.
        reverse: whether to reverse the gradient.
        p: probability with which a sample is perturbed; others pass, with their gradient.
        p_batch: probability with which a batch is perturbed at all.
        same_on_batch: whether all samples get the same noise.
        keepdim: whether ``(C, H, W)`` stays ``(C, H, W)``, instead of becoming ``(1, C, H, W)``.

    Shape:
        - input: ``(B, C, H, W)``, ``(C, H, W)`` or, for one channel, ``(H, W)``; the output is ``(B, C, H, W)``.
        - A call may override the budget, ``augmentation(x, budget=0.02)``, by a number or one per sample, and say by
          `where` or `lengths` what may change, as of :meth:`viewaug.Viewmaker.forward`. In a container all three are
          the same for every call, ``extra_args={DataKey.INPUT: {"where": mask}}``: kornia hands on no others.

    Raises:
        TypeError: if `viewmaker` is not a :class:`viewaug.Viewmaker`.
        ValueError: if the viewmaker is not one for images, or the first batch is outside its value range.

    Examples:
        >>> import kornia.augmentation as K
        >>> pipeline = K.AugmentationSequential(K.RandomHorizontalFlip(), RandomViewmaker(viewaug.Viewmaker()))
        >>> x = torch.rand(4, 3, 32, 32)
        >>> view = pipeline(x)
        >>> torch.equal(view, pipeline(x, params=pipeline._params))
        True
    """

    def __init__(
        self,
        viewmaker: Viewmaker,
        *,
        reverse: bool = True,
        p: float = 1.0,
        p_batch: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        check_viewmaker(viewmaker)
        if viewmaker.dims != 2:
            raise ValueError(f"Expected `viewmaker` to have 2 dims, but got {viewmaker.dims}.")
        for name, value in (("p", p), ("p_batch", p_batch)):
            if not 0 <= value <= 1:
                raise ValueError(f"Expected `{name}` to be a probability, but got {value}.")
        super().__init__(p=p, p_batch=p_batch, same_on_batch=same_on_batch, keepdim=keepdim)
        self.viewmaker = viewmaker
        self.reverse = reverse
        self.flags = {"budget": None, "where": None, "lengths": None}  # a budget of None is the viewmaker's own
        self._checked = False

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the noise, one entry a field, by torch's own generator, as all of kornia does."""
        batch, drawn = batch_shape[0], 1 if self.same_on_batch else batch_shape[0]
        return {
            f"noise_{i}": torch.rand(drawn, *shape, device=self.device, dtype=self.dtype).expand(batch, *shape)
            for i, shape in enumerate(self.viewmaker.noise_shapes(batch_shape[-2:]))
        }

    def apply_transform(
        self, x: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        if not self._checked and not torch.compiler.is_compiling():
            self._checked = check_values(x, self.viewmaker)
        options = {name: flags[name] for name in self.flags}
        count = sum(name.startswith("noise_") for name in params)
        noise = tuple(params[f"noise_{i}"].to(x) for i in range(count))
        if noise and len(noise[0]) != len(x):
            raise ValueError(f"Expected `params` of {len(x)} samples, but got those of {len(noise[0])}.")
        if not self.reverse:
            return self.viewmaker(x, noise, **options)
        if x.requires_grad:
            x = reverse_gradient(x)  # and again behind the viewmaker: steps before it get their own gradient
        return reverse_gradient(self.viewmaker(x, noise, **options))

    def apply_transform_mask(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("mask") if self.viewmaker.perturbation.geometric else x

    def apply_transform_box(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("box") if self.viewmaker.perturbation.geometric else x

    def apply_transform_keypoint(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return self._refuse("keypoint") if self.viewmaker.perturbation.geometric else x

    def _refuse(self, key: str) -> NoReturn:
        name = type(self.viewmaker.perturbation).__name__
        raise ValueError(f"Expected no {key} in `data_keys`: the perturbation {name} moves pixels, but not a {key}.")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.viewmaker.extra_repr()}, reverse={self.reverse}, p={self.p}, "
            f"p_batch={self.p_batch}, same_on_batch={self.same_on_batch})"
        )
