"""The cores and GPUs that this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cim_dg.errors import UserError
from cim_dg.runtime import settings

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
REQUIRED = "a GPU is required (CIM_DG_REQUIRE_GPU, --require_gpu)"
"""The beginning of `check_required`'s error, by which a launcher knows it."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES; none if torch can use no GPU.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names a GPU that this machine does not have.
    """
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [str(number) for number in range(usable)]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if "-1" in names:  # CUDA ignores what follows
        names = names[: names.index("-1")]
    # CUDA uses the names before the first invalid one, and ignores the others silently.
    if len(names) > usable and (usable or _nvidia_devices()):
        raise UserError(
            f"{VISIBLE} is {visible!r}, and {names[usable]!r} is no GPU of this machine or comes twice; accepted are "
            f"the numbers or UUIDs of its GPUs, separated by commas"
        )
    return names[:usable]


def choose_device(name: str) -> torch.device:
    """The device of an option: "cpu", the number of a GPU, or "auto" for the first GPU if there is one.

    Raises:
        UserError: the text is another, or there is no such GPU.
    """
    import torch

    if name == "auto":
        check_required()
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name.isascii() and name.isdecimal() and int(name) < torch.cuda.device_count():
        return torch.device(f"cuda:{name}")
    raise UserError(
        f"device is {name!r}; accepted is cpu or the number of a GPU, of which there are {torch.cuda.device_count()}"
    )


def check_required(always: bool = False) -> None:
    """Refuse to run on the CPU if CIM_DG_REQUIRE_GPU is set, or `always`.

    Raises:
        UserError: torch can use no GPU. The message has its reason.
    """
    if not (always or settings.get("CIM_DG_REQUIRE_GPU")):
        return
    import torch

    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        reason = "there is none"
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
    raise UserError(f"{REQUIRED} and cannot be used: {reason}")


def _nvidia_devices() -> list[Path]:
    """The device files of NVIDIA's driver, one for each GPU, including those that CUDA_VISIBLE_DEVICES hides."""
    return list(Path("/dev").glob("nvidia[0-9]*"))
