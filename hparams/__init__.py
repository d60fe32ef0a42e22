"""The hyper-parameters of the methods: what there is, its defaults, its random search, its checks.

Each method has a file NAME.yaml, and the entries of averaging.yaml beside it; common.yaml holds what a method takes
from a harness, datasets/NAME.yaml what a dataset of ours adds. A file maps names to entries with these keys:

    help       one line
    type       float, int, bool, str, or object (a name or a mapping, checked by whoever uses it)
    default    the value of hparams_seed 0
    random     the distribution of the others: {uniform: [a, b]}, {log10: [a, b]} (10 to the power of uniform),
               {log2: [a, b]}, or {choice: [...]}; int values are rounded down. Left out: always the default.
    bounds     [lowest, highest] accepted, null for none
    choices    the values that are accepted
    optional   true if null is accepted
    small_images, datasets: {NAME: ...}     another default and random for those

`include: [OTHER, ...]` takes in the entries of other methods. Random values are drawn as DomainBed draws them, each
from its own RandomState(seed_hash(seed, name)), so that a new name never changes the value of an old one.
"""

from cim_dg.hparams.sampling import defaults, sample, seed_hash
from cim_dg.hparams.space import SMALL_IMAGES, HParam, check, complete, dataset_names, register, space

__all__ = [
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
