"""Runs inside a real DomainBed: its own unit tests, with algorithms added to those they are parametrised over.

    python run_unit_tests.py OUTCOMES.json '{"algorithms": [...], "only": [...]}' MODULE...

OUTCOMES.json maps each test, or each of `only`, to "ok", "failed" or "skipped". The tests ask for a GPU and a download:
without a GPU, .cuda() stays where it is; the tests on 224x224 images, which download ResNets, are left out.
"""

from __future__ import annotations

import json
import re
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

import torch
from domainbed import algorithms

outcomes, options, *modules = sys.argv[1:]
added, only = json.loads(options)["algorithms"], json.loads(options)["only"]
if not torch.cuda.is_available():
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
algorithms.ALGORITHMS.extend(added)


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        elif "Debug224" not in test.id():
            yield test


def told(test: unittest.TestCase) -> str:
    """A test's name and parameters; not its number, which an added algorithm moves."""
    return f"{re.sub(r'_[0-9]+_', '_', test.id())}: {test.shortDescription()}"


result = unittest.TestResult()
tests = list(flat(unittest.defaultTestLoader.loadTestsFromNames(modules)))
tests = [test for test in tests if only is None or told(test) in only]
unittest.TestSuite(tests).run(result)
kinds = {test: "ok" for test in map(told, tests)}
kinds |= {told(test): "skipped" for test, _ in result.skipped}
kinds |= {told(test): "failed" for test, _ in [*result.failures, *result.errors]}
Path(outcomes).write_text(json.dumps(kinds))
