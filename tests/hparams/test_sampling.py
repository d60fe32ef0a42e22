from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cim_dg import hparams
from cim_dg.hparams.space import HParam


def test_seed_hash_is_domainbeds():
    expected = int(hashlib.md5(b"(3, 'lr')").hexdigest(), 16) % 2**31
    assert hparams.seed_hash(3, "lr") == expected


def entry(kind, **random):
    return {"a": HParam("h", kind, 1, random=random or None)}  # type: ignore[arg-type]


def stream(seed):
    return np.random.RandomState(hparams.seed_hash(seed, "a"))


@pytest.mark.parametrize("seed", range(5))
def test_values_are_drawn_as_domainbed_draws_them(seed):
    assert hparams.sample(entry("float", uniform=[2, 3]), seed)["a"] == stream(seed).uniform(2, 3)
    assert hparams.sample(entry("int", uniform=[500, 9e9]), seed)["a"] == int(stream(seed).uniform(500, 9e9))
    assert hparams.sample(entry("float", log10=[-4, 2]), seed)["a"] == 10 ** stream(seed).uniform(-4, 2)
    assert hparams.sample(entry("int", log2=[3, 9]), seed)["a"] == int(2 ** stream(seed).uniform(3, 9))
    assert hparams.sample(entry("float", choice=[0.0, 0.1, 0.5]), seed)["a"] == stream(seed).choice([0.0, 0.1, 0.5])
    assert hparams.sample(entry("int"), seed)["a"] == 1


def test_a_value_depends_on_its_own_name_alone():
    alone = hparams.sample(hparams.space("VIB"), 7)
    together = hparams.sample(hparams.space("CIM_VIB"), 7)
    assert alone.items() <= together.items()
