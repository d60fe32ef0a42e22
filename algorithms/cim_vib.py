"""CIM + VIB: CIM's morph before the featurizer, VIB's bottleneck after it (Taghanaki et al. 2021)."""

from __future__ import annotations

from cim_dg.algorithms.base import register
from cim_dg.algorithms.cim import Morphing
from cim_dg.algorithms.vib import VIB


@register("CIM_VIB")
class CIM_VIB(Morphing, VIB):
    r"""Minimises :math:`\lambda L_{con} + L_{sup} + \beta\, D_{KL}(Q(Z|X) \,\|\, N(0, I))`."""
