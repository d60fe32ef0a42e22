"""Pretrained ResNet weights, from a file or from the caches of torchvision and timm; nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cim_dg.errors import UserError
from cim_dg.runtime import checkpoint

RANDOM = "random"
AUGMIX = "resnet50.ram_in1k"  # timm's name
TORCHVISION_DEFAULT = "IMAGENET1K_V1"

_HOW = (
    'give --hparams \'{"weights": "FILE"}\' with the file of a state_dict of that architecture, the name of weights '
    'that are in the cache, or "random" to train from scratch'
)


def load(network: nn.Module, architecture: str, weights: str) -> None:
    """Load `weights` into a torchvision ResNet (`architecture`: its name) without its last layer, fc.

    `weights` is the file of a state_dict (.safetensors, or what torch.save writes), the name of torchvision weights
    (IMAGENET1K_V1), or that of timm's (resnet50.ram_in1k: parameter names and architecture are those of torchvision's).

    Raises:
        UserError: there is no such file, the caches have nothing of that name, or the weights do not fit.
    """
    path = Path(weights) if os.path.isfile(weights) else _cached(architecture, weights)
    state = {name: value for name, value in _read(path).items() if not name.startswith("fc.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights in {path} are not those of a {architecture} ({reason}); {_HOW}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = checkpoint.read_safely(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the weights in {path} cannot be read ({reason}); {_HOW}") from None
    if not isinstance(state, dict):
        raise UserError(f"the weights in {path} are no state_dict but a {type(state).__name__}; {_HOW}")
    return state


def _cached(architecture: str, name: str) -> Path:
    """The cached file of torchvision's or timm's weights of that name."""
    import torchvision.models

    choices = torchvision.models.get_model_weights(architecture)
    if name in choices.__members__:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(choices[name].url).name
        if path.is_file():
            return path
        raise UserError(
            f"the {architecture} weights {name} are not at {path}: put {choices[name].url} there, or {_HOW}"
        )
    if name.startswith(f"{architecture}."):
        return _cached_by_timm(name)
    known = ", ".join(choices.__members__)
    raise UserError(f"the weights {name!r} are neither a file nor known for {architecture} ({known}, {AUGMIX}); {_HOW}")


def _cached_by_timm(name: str) -> Path:
    missing = (
        f"the weights {name} are not in timm's cache (`timm.create_model('{name}', pretrained=True)` puts them there)"
    )
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        raise UserError(f"{missing}, nor is huggingface_hub installed, which looks there; {_HOW}") from None
    path = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
    if not isinstance(path, str):
        raise UserError(f"{missing}; {_HOW}")
    return Path(path)
