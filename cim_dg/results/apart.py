"""Python in a process of its own, for parts of a page: reading results must not need the training code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run_apart(script: str, requests: Sequence[Any], seconds: float, **environment: str) -> None:
    """Run a script that reads `requests` as JSON from stdin and writes files; after `seconds` it is killed.

    What it wrote before an error or its end is there; nothing is printed or raised. `environment` adds to this
    process'.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(requests).encode(),
            env={**os.environ, **environment},
            capture_output=True,
            timeout=seconds,
            check=False,
        )
