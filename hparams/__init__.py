"""The hyper-parameters of the methods: what there is, its defaults, its random search, its checks.

Each method has a file NAME.yaml; averaging.yaml holds what every method has, common.yaml what a method takes from a
harness, domainbed.yaml DomainBed's own, datasets/NAME.yaml what a dataset adds. A file maps names to entries; their
keys are the fields of `HParam`, and schema.json tells them to editors. `include: [OTHER, ...]` takes in the entries of
other methods. Random values are drawn as DomainBed draws them, each from its own RandomState(seed_hash(seed, name)), so
that a new name never changes the value of an old one.
"""

from cim_dg.hparams.sampling import defaults, sample, seed_hash
from cim_dg.hparams.space import SHARED, SMALL_IMAGES, HParam, check, complete, dataset_names, register, space

__all__ = [
    "SHARED",
    "SMALL_IMAGES",
    "HParam",
    "check",
    "complete",
    "dataset_names",
    "defaults",
    "register",
    "sample",
    "seed_hash",
    "space",
]
