"""The hyper-parameters of the methods: their defaults, random search and checks.

Each method has a file NAME.yaml. averaging.yaml has the entries of every method, common.yaml those that a method takes
from a harness, domainbed.yaml DomainBed's own, and datasets/NAME.yaml those that a dataset adds. A file maps names to
entries, whose keys are the fields of `HParam`; editors read them from schema.json. `include: [OTHER, ...]` adds the
entries of other methods. Random values are drawn as in DomainBed, each from its own RandomState(seed_hash(seed, name)),
so a new name never changes the value of another.
"""

from cim_dg.hparams.sampling import defaults, sample, seed_hash
from cim_dg.hparams.space import (
    SHARED,
    SMALL_IMAGES,
    HParam,
    check,
    complete,
    dataset_names,
    of_domainbed,
    register,
    space,
)

__all__ = [
    "SHARED",
    "SMALL_IMAGES",
    "HParam",
    "check",
    "complete",
    "dataset_names",
    "defaults",
    "of_domainbed",
    "register",
    "sample",
    "seed_hash",
    "space",
]
