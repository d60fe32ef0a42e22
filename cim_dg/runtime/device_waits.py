"""Finds, without a GPU, the operations for which Python waits for one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = frozenset({"_local_scalar_dense", "allclose", "bincount", "equal", "is_nonzero", "masked_select", "nonzero"})
_READS |= {"_unique", "_unique2", "unique_consecutive", "unique_dim"}


class NoWaiting(TorchDispatchMode):
    """A context in which an operation on tensors of the device `meta` fails if it would make Python wait for a GPU.

    `meta` has shapes but no data, so it needs no GPU; code that checks the device takes the path of GPUs. Python waits
    for reading a value (`.item()`, `.tolist()`, `if tensor:`), shapes that depend on values (`nonzero`,
    indexing with a mask), and copies between CPU and GPU, unless they go to the GPU with `non_blocking=True`. An
    operation between a tensor on the CPU and one on the GPU fails too, as it does on a GPU. Autocast is off, because
    `meta` does not have it.

    Raises:
        AssertionError: from within the operation, so that the traceback ends at the line that waits.
    """

    def __enter__(self) -> NoWaiting:
        self._contexts = contextlib.ExitStack()
        for module in (torch, torch.amp):
            without = mock.patch.object(module, "autocast", lambda *_, **__: contextlib.nullcontext())
            self._contexts.enter_context(without)
        self._contexts.enter_context(_NoPythonNumbers())
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._contexts.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check an operation, then run it."""
        kwargs = kwargs or {}
        name = func._schema.name
        devices = {t.device.type for t in _tensors((args, kwargs)) if t.device.type == "meta" or t.ndim}
        if "meta" in devices and (reason := self._waits(name, args, kwargs)):
            raise AssertionError(f"{func} makes Python wait for a GPU: {reason}")
        if name in ("aten::_to_copy", "aten::copy_"):
            self._check_copy(func, args, kwargs)
        elif len(devices) > 1:
            raise AssertionError(f"{func} mixes tensors of the CPU and of the GPU; is one of them not a buffer?")
        return func(*args, **kwargs)

    def _waits(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        if name.removeprefix("aten::") in _READS:
            return "it needs values"
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            return "the size of its result depends on values; give output_size"
        if name in ("aten::index", "aten::index_put_", "aten::index_put"):
            masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            if masked and not (len(args) > 2 and args[2].numel() == 1):  # of one value: a masked_fill
                return "how many entries a mask selects depends on values; use torch.where"
        return None

    def _check_copy(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if func._schema.name == "aten::copy_":
            target, source = args[0].device.type, args[1].device.type
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source = args[0].device.type
            target = torch.device(kwargs.get("device") or source).type
            non_blocking = kwargs.get("non_blocking", False)
        if source == "meta" and target == "cpu":
            raise AssertionError(f"{func} makes Python wait for a GPU: it copies to the CPU")
        if source == "cpu" and target == "meta" and not non_blocking:
            raise AssertionError(f"{func} makes Python wait for a GPU: use .to(device, non_blocking=True)")


class _NoPythonNumbers(TorchFunctionMode):
    """Refuses tensors that are made from Python numbers on the device `meta`; they never reach `NoWaiting`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        data = args[1:2] if func is Tensor.new_tensor else args[:1]
        converts = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and result.device.type == "meta"
        if converts and not any(isinstance(value, Tensor) for value in data):
            raise AssertionError(
                f"{func.__name__} copies Python numbers to a GPU and makes Python wait for it: make a tensor on the "
                "CPU, then use .to(device, non_blocking=True)"
            )
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device.type == "meta":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in index):
                raise AssertionError("an index of Python numbers is copied to a GPU and makes Python wait for it")
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested sequences and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
