"""CIM (Contrastive Input Morphing, ICML 2021) for DomainBed and WILDS.

`from cim_dg import CIM, TransformationNetwork, triplet_ms_ssim` gives the building blocks for your own training loop.
Names are imported on first use: the interpreter imports this package at every start (see `cim_dg.autoload`), so it must
cost almost nothing until it is needed.
"""

import os as _os

__version__ = "0.1.0"

# In a checkout, algorithms/, hparams/ and sweeps/ are next to this folder, not in it (setup.py maps them in a build).
# Searching there too makes `cim_dg.algorithms` importable without an installation and from an editable one.
_checkout = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
if _os.path.exists(_os.path.join(_checkout, "setup.py")) and _os.path.exists(_os.path.join(_checkout, "algorithms")):
    __path__.append(_checkout)

_EXPORTS = {
    "cim_dg.algorithms": (
        "CCSA",
        "CIM",
        "CIM_VIB",
        "ERM",
        "SCL",
        "VIB",
        "Algorithm",
        "Batch",
        "DCoDR",
        "GroupDRO",
        "Morphing",
        "Output",
        "TransformInvariance",
        "register",
    ),
    "cim_dg.nn.networks": ("GaussianBottleneck", "ProjectionHead", "SmallCNN", "TransformationNetwork"),
    "cim_dg.nn.perceptual": ("ms_ssim", "triplet_ms_ssim"),
    "cim_dg.nn.pixels": ("PixelSpace",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cim_dg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
