"""Every registered method meets the contract."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from cim_dg.algorithms import methods, register
from cim_dg.algorithms.erm import ERM
from cim_dg.errors import UserError
from cim_dg.testing import MethodContract

NAMES = ["ERM", "GroupDRO", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]


class TestEveryMethod(MethodContract):
    @pytest.fixture(autouse=True, params=sorted(methods()))
    def each(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param  # type: ignore[misc]


class TestCIMWithRecentImages(MethodContract):
    """Its state is more than parameters and buffers."""

    name = "CIM"
    hparams = MappingProxyType({"cim_queue": 8})


class TestCIMAtWorkingSizes(MethodContract):
    """Its network and its contrast see smaller images, and each anchor has several pairs, which are aligned."""

    name = "CIM"
    hparams = MappingProxyType({"cim_mask_side": 12, "cim_contrast_side": 10, "cim_pairs": 3, "cim_align": 2})


def test_the_methods_are_registered():
    assert set(NAMES) <= set(methods())
    assert all(method.name == name for name, method in methods().items())


def test_a_name_is_registered_once():
    with pytest.raises(UserError, match="'ERM' is registered already"):
        register("ERM")(ERM)
