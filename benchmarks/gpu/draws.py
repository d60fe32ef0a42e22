"""Random numbers that are the same on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class CpuDraws(TorchDispatchMode):
    """Within this context random numbers are drawn on the CPU, from its global generator, and copied to the device.

    A GPU's own generator gives other numbers than the CPU's, so that steps with noise could not be compared. An
    operation with a generator of its own is left alone.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; on the CPU if it draws."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        tensors = [value for value in args if isinstance(value, Tensor)]
        device = kwargs.get("device") or (tensors[0].device if tensors else torch.device("cpu"))
        on_cpu = {**kwargs, **({"device": torch.device("cpu")} if kwargs.get("device") is not None else {})}
        drawn = func(*tree_map(_to_cpu, args), **tree_map(_to_cpu, on_cpu))
        if func._schema.is_mutable:  # such as normal_: the first argument is what is drawn
            return args[0].copy_(drawn)
        return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, drawn)


def _to_cpu(value: Any) -> Any:
    return value.to("cpu") if isinstance(value, Tensor) else value
