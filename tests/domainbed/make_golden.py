"""Write golden/, the results of the real DomainBed with our plugin (see agreement_samples.py).

    DOMAINBED_ROOT=/path/to/DomainBed python tests/domainbed/make_golden.py

`test_agreement.py` compares the stand-in with the committed files; its test marked `harness` compares them with a fresh
run of the real DomainBed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from agreement_samples import GOLDEN, from_real

GOLDEN.mkdir(exist_ok=True)
results = from_real(Path(os.environ["DOMAINBED_ROOT"]).resolve())
for name in ("hparams", "plans", "trajectories"):
    (GOLDEN / f"{name}.json").write_text(json.dumps(results[name], indent=1, sort_keys=True) + "\n")
