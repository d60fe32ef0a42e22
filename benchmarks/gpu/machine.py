"""What the tables were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone

import torch

from benchmarks.gpu.section import NEEDS_CUDA, Row, Section, Setup
from cim_dg.runtime.devices import cores
from cim_dg.runtime.provenance import commit, version_of


def rows(setup: Setup) -> Iterator[Row]:
    """The cards, the driver, the versions and the commit."""
    if setup.cuda:
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            yield Row((f"GPU {number}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"))
    else:
        yield Row(("GPU", NEEDS_CUDA))
    yield Row(("driver", driver() if setup.cuda else NEEDS_CUDA))
    versions = {"PyTorch": torch.__version__, "CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    versions |= {name: version_of(name) for name in ("cim-dg", "torchvision", "pytorch-msssim")}
    versions |= {"Python": platform.python_version(), "processor": f"{cores()} cores of {os.cpu_count()}"}
    for name, value in versions.items():
        yield Row((name, str(value)))
    yield Row(("commit", commit() or "unknown"))
    yield Row(("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")))


def driver() -> str:
    """The version of NVIDIA's driver, as its own tool says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi does not say"
    return ", ".join(sorted(set(said.split())))


SECTION = Section("machine", "Measured on", ("", ""), 10, rows)
