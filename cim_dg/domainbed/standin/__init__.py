"""cim-dg's stand-in for DomainBed: its protocol, commands and files, for machines without a DomainBed.

`cim_dg.autoload` imports it as `domainbed`, and only where there is no real DomainBed. It has the same module names
where plugins attach, and the same flags, splits, seeds, job folders, results.jsonl, model selection and tables. It has
no methods of its own: cim-dg registers its methods here with the code that registers them in the real one. What only
the real one has (other baselines, ViT, DINOv2, Wide ResNet, WILDS and Spawrious data, --auto_lr) is an error here. The
real one: https://github.com/facebookresearch/DomainBed
"""

from cim_dg import __version__

__all__ = ["STANDIN", "__version__"]

STANDIN = True
"""Marks this package as the stand-in: a real DomainBed does not have this name."""
