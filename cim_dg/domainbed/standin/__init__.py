"""cim-dg's stand-in for DomainBed: its protocol, commands and files, for machines without a DomainBed.

It is imported as `domainbed` by `cim_dg.autoload`, and only where no real DomainBed can be: same module names at the
seams that plugins use, same flags, splits, seeds, job folders, results.jsonl, model selection and tables. It has no
method of its own; cim-dg registers its methods here with the very code that registers them into the real one. What
DomainBed does and this does not (other baselines, ViT, DINOv2, Wide ResNet, WILDS and Spawrious data, --auto_lr) is
refused, never replaced. The real one: https://github.com/facebookresearch/DomainBed
"""

from cim_dg import __version__

__all__ = ["STANDIN", "__version__"]

STANDIN = True
"""Tells this package from a real DomainBed, which has no such name."""
