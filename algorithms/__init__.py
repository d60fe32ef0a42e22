"""The methods: pure objectives over tensors, one per file. They import no harness."""

from cim_dg.algorithms.base import REGISTRY, Algorithm, Batch, Output, methods, register
from cim_dg.algorithms.ccsa import CCSA
from cim_dg.algorithms.cim import CIM, Morphing
from cim_dg.algorithms.cim_vib import CIM_VIB
from cim_dg.algorithms.dcodr import DCoDR
from cim_dg.algorithms.erm import ERM
from cim_dg.algorithms.group_dro import GroupDRO
from cim_dg.algorithms.scl import SCL
from cim_dg.algorithms.transform_invariance import TransformInvariance
from cim_dg.algorithms.vib import VIB

__all__ = [
    "CCSA",
    "CIM",
    "CIM_VIB",
    "ERM",
    "REGISTRY",
    "SCL",
    "VIB",
    "Algorithm",
    "Batch",
    "DCoDR",
    "GroupDRO",
    "Morphing",
    "Output",
    "TransformInvariance",
    "methods",
    "register",
]
