"""Spirograph as a DomainBed dataset: its classes, what its hparams are, and a job of the stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from domainbed import datasets
from domainbed.scripts import train

from cim_dg import hparams as spaces
from cim_dg.data.spirograph import draw, environments
from cim_dg.domainbed.datasets import SIDE
from cim_dg.errors import UserError
from cim_dg.results.domains import ENVIRONMENTS


def made() -> Any:
    return datasets.get_dataset_class("Spirograph")


def test_three_environments_of_five_classes() -> None:
    dataset = made()(None, [2], {})
    assert tuple(made().ENVIRONMENTS) == ENVIRONMENTS["Spirograph"] == tuple(environments(0, 5))
    assert dataset.input_shape == (3, SIDE, SIDE) and dataset.num_classes == 5 and len(dataset) == 3
    for one, parameters in zip(dataset, environments(0, 400).values(), strict=True):
        images, labels = one.tensors
        assert torch.equal(images, draw(parameters, SIDE)) and torch.equal(labels, parameters.classes())


def test_its_hparams_are_read_and_checked() -> None:
    hparams = {"spirograph_seed": 7, "spirograph_images": 60, "lr": 1e-3}
    for one, parameters in zip(made()(None, [0], hparams), environments(7, 60).values(), strict=True):
        assert torch.equal(one.tensors[1], parameters.classes())
    with pytest.raises(UserError, match="spirograph_images is 3"):
        made()(None, [0], {"spirograph_images": 3})
    space = spaces.space("datasets/Spirograph", "Spirograph")
    assert {name: entry.default for name, entry in space.items()} == {
        "batch_size": 32,
        "spirograph_seed": 0,
        "spirograph_images": 400,
    }
    assert spaces.defaults(spaces.space("common", "Spirograph"))["pixel_space"] == "unit"


def test_a_job_of_the_stand_in(tmp_path: Path) -> None:
    flags = ["--data_dir", "none", "--dataset", "Spirograph", "--algorithm", "CIM", "--test_envs", "2"]
    hparams = json.dumps({"spirograph_images": 60, "batch_size": 8})
    assert train.main([*flags, "--steps", "2", "--hparams", hparams, "--output_dir", str(tmp_path)]) == 0
    *_, last = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert last["hparams"]["pixel_space"] == "unit" and 0 <= last["env2_in_acc"] <= 1
