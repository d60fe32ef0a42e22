"""Constants that are filled in on a device once."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from cim_dg.nn.device_constants import constants


def test_they_have_the_values_the_type_and_the_device_asked_for() -> None:
    for dtype in (torch.float32, torch.float64):
        tensor = constants((0.25, 1.5), torch.zeros(3, dtype=dtype))
        assert torch.equal(tensor, torch.tensor([0.25, 1.5], dtype=dtype))
    assert constants((0.25,), torch.empty(1, device="meta")).device.type == "meta"


def test_they_are_made_once() -> None:
    like = torch.zeros(2)
    assert constants((0.125, 2.0), like) is constants((0.125, 2.0), like)


def test_those_first_used_in_inference_mode_can_take_part_in_training() -> None:
    with torch.inference_mode():
        constants((0.375,), torch.zeros(1))
    x = torch.ones(1, requires_grad=True)
    (x * constants((0.375,), torch.zeros(1))).sum().backward()
    assert x.grad == torch.tensor([0.375])


def test_tensors_without_data_are_not_kept() -> None:
    with FakeTensorMode():
        assert isinstance(constants((0.625,), torch.zeros(1)), FakeTensor)
    assert constants((0.625,), torch.zeros(1)) == 0.625
