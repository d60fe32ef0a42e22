"""Which GPUs a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cim_dg.errors import UserError
from cim_dg.runtime import devices


@pytest.fixture
def visible(monkeypatch):
    """Sets CUDA_VISIBLE_DEVICES, how many GPUs torch then sees, and how many the driver has."""

    def set_to(value, usable, devices_of_driver=4):
        if value is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: usable)
        monkeypatch.setattr(devices, "_nvidia_devices", lambda: [Path("nvidia0")] * devices_of_driver)
        return devices

    return set_to


@pytest.mark.parametrize(
    ("value", "usable", "names"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("0, 1", 2, ["0", "1"]),
        ("3,GPU-8932f937,", 2, ["3", "GPU-8932f937"]),
        ("2,-1,3", 1, ["2"]),
    ],
)
def test_the_names_are_those_of_cuda(visible, value, usable, names):
    assert visible(value, usable).gpus() == names


@pytest.mark.parametrize(("value", "usable", "wrong"), [("9", 0, "9"), ("0,7", 1, "7"), ("0,0", 0, "0")])
def test_a_gpu_that_is_not_there_is_refused(visible, value, usable, wrong):
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES is '{value}', and '{wrong}' is no GPU of this machine"):
        visible(value, usable).gpus()


def test_a_machine_without_a_gpu_has_none_whatever_the_variable_says(visible):
    assert visible("0", 0, devices_of_driver=0).gpus() == []


def test_cores():
    assert devices.cores() >= 1
