"""Write golden/, what the real DomainBed gives with our plugin (see agreement_samples.py).

    DOMAINBED_ROOT=/path/to/DomainBed python tests/domainbed/make_golden.py

The tests of agreement compare the stand-in with the committed files; one marked `harness` compares those with a fresh
run of the real one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from agreement_samples import GOLDEN, from_real

GOLDEN.mkdir(exist_ok=True)
given = from_real(Path(os.environ["DOMAINBED_ROOT"]).resolve())
for name in ("hparams", "plans", "trajectories"):
    (GOLDEN / f"{name}.json").write_text(json.dumps(given[name], indent=1, sort_keys=True) + "\n")
