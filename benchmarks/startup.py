"""The start-up time that the hook adds to Python: `python -c pass` with it and with CIM_DG_AUTOLOAD=0, in turn.

Run it with a Python that has cim-dg installed (`make bench` does).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="starts of each kind (default 200)")
    runs = parser.parse_args().runs
    if not (Path(sysconfig.get_path("purelib")) / "cim_dg_autoload.pth").exists():
        raise SystemExit("cim-dg is not installed in this Python: there is no hook to measure")
    times: dict[str, list[float]] = {"0": [], "1": []}
    for _ in range(runs):
        for switch, durations in times.items():
            environment = os.environ | {"CIM_DG_AUTOLOAD": switch}
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], env=environment, check=True)
            durations.append(time.perf_counter() - start)
    off, on = (1e3 * statistics.median(times[switch]) for switch in ("0", "1"))
    print(
        f"python -c pass: {off:.2f} ms without the hook, {on:.2f} ms with it: +{on - off:.2f} ms, ratio {on / off:.3f}"
    )


if __name__ == "__main__":
    main()
