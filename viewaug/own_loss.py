"""A loss of the viewmaker's own: through an encoder that it does not train."""

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def frozen_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module so that a loss on the result trains what made its input, and not the module.

    Its parameters get no gradient, and its buffers, such as the statistics of batch normalisation, stay as they are;
    its mode is the one it is in. So a viewmaker can have a loss of its own in the backward pass of the encoder's: the
    encoder gets detached views for its loss, and the viewmaker's loss, which it raises, is computed by a second pass
    over the views, at the price of that pass.

    Args:
        module: the encoder; of a ``DistributedDataParallel`` the module in it is called.
        *args: of the call.
        **kwargs: of the call.

    Examples:
        >>> viewmaker, encoder = viewaug.Viewmaker(1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        >>> one, two = viewaug.AdversarialAugmentation(viewmaker).views(torch.rand(8, 1, 8, 8))
        >>> z = encoder(torch.cat([one, two]).detach())
        >>> mine = [frozen_call(encoder, view) for view in (one, two)]
        >>> loss = z.square().mean()  # any
        >>> (loss + torch.nn.functional.mse_loss(*mine)).backward()  # the second is the viewmaker's, which raises it
    """
    if isinstance(module, DistributedDataParallel):
        module = module.module
    state = {name: parameter.detach() for name, parameter in module.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, state, args, kwargs)
