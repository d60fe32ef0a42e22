"""The statistics of batch normalisation of a model whose weights were averaged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def update_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Recompute the running mean and variance of every unfrozen batch normalisation over `batches`.

    Like `torch.optim.swa_utils.update_bn`, but layers that stay in evaluation mode under `model.train()`, as those of
    a pretrained featurizer may, keep their statistics. The mode of the model is restored.

    Returns:
        The number of layers that were updated; 0 reads no batch.
    """
    training = model.training
    model.train()
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    try:
        if layers:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over all batches
            for x in batches:
                model(x)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(training)
    return len(layers)
