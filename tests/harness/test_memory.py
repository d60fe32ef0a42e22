"""The estimate of a GPU's memory, against what autograd keeps of whole batches."""

from __future__ import annotations

import pytest
import torch
from small_datasets import QUICK
from torch import nn

from cim_dg.domainbed import memory as of_domainbed
from cim_dg.harness import memory
from cim_dg.wilds import memory as of_wilds


def test_it_is_linear_in_the_images_and_counts_what_is_kept() -> None:
    # x is kept by the first layer (100 floats), its output by ReLU and by the second layer, one storage (400 floats).
    model = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 1))
    parameters = 4 * (100 * 400 + 400 + 400 + 1)
    kept = 4 * (100 + 400)
    for images in (4, 1_000_000):
        expected = memory.RESERVE_GIB + (4 * parameters + 1.2 * images * kept) / 2**30
        assert memory.training_gib(model, lambda n: model(torch.rand(n, 100)), images) == pytest.approx(expected, 1e-6)


def domainbed_gib(algorithm: str, batch: int, dataset: str = "Debug28", test_envs: str = "0") -> float:
    words = f"--algorithm {algorithm} --dataset {dataset} --test_envs {test_envs}".split()
    return of_domainbed.gib([*words, "--hparams", f'{{"batch_size": {batch}}}'])


def test_of_a_job_of_the_stand_in() -> None:
    small, large, larger = (domainbed_gib("ERM", batch) for batch in (100, 1100, 2100))
    assert larger - large == pytest.approx(large - small, rel=1e-3)
    assert large > small > memory.RESERVE_GIB
    # Two environments are trained on, or one.
    one_less = domainbed_gib("ERM", 1100, test_envs="0 1")
    assert (one_less - memory.RESERVE_GIB) == pytest.approx((large - memory.RESERVE_GIB) / 2, rel=0.1)
    assert domainbed_gib("TransformInvariance", 1100) > 1.3 * large


def test_of_a_run_of_wilds() -> None:
    words = ["wilds", "train", "--dataset", "waterbirds", "--root_dir", "data", *QUICK]
    erm = of_wilds.gib((*words, "--algorithm", "ERM", "--batch_size", "4000"))
    cim = of_wilds.gib((*words, "--algorithm", "CIM", "--batch_size", "4000"))
    assert cim > erm > of_wilds.gib((*words, "--algorithm", "ERM", "--batch_size", "400")) > memory.RESERVE_GIB
