"""Runs inside a real DomainBed: several runs of its `train` in one interpreter, whose start takes longest.

    python run_trains.py '[["--algorithm", "CIM", ...], ...]'

ResNets get random weights, which DomainBed would download, and data loaders no processes of their own.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from typing import Any

import timm
import torchvision
from domainbed import datasets


def without_weights(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *names, pretrained=None, **options: make(*names, **options)


timm.create_model = without_weights(timm.create_model)
torchvision.models.resnet18 = without_weights(torchvision.models.resnet18)
torchvision.models.resnet50 = without_weights(torchvision.models.resnet50)
datasets.MultipleDomainDataset.N_WORKERS = 0

streams = sys.stdout, sys.stderr
for flags in json.loads(sys.argv[1]):
    sys.argv[1:] = flags
    runpy.run_module("domainbed.scripts.train", run_name="__main__", alter_sys=True)
    sys.stdout, sys.stderr = streams  # which train replaces
