"""Give the jobs of a plan to a launcher of DomainBed: `python -m cim_dg.sweeps.launch --command_launcher NAME PLAN`.

For jobs that DomainBed's own `sweep` does not support: methods with their own hyper-parameters, or selected test
environments. The jobs, their folders and the launcher are DomainBed's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cim_dg.domainbed.launchers import is_standin
from cim_dg.errors import UserError, exit_code
from cim_dg.runtime.arguments import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run every job of the plan.

    Returns 0 done, 1 a job failed, 2 wrong input.
    """
    parser = Parser(prog="cim_dg.sweeps.launch", description=__doc__)
    parser.add_argument("--command_launcher", required=True)
    parser.add_argument("plan", type=Path, help="a JSON list of the arguments of domainbed.scripts.train")
    args = parser.parse_args(argv)
    return exit_code(lambda: launch(json.loads(args.plan.read_text(encoding="utf-8")), args.command_launcher), "cim-dg")


def launch(plan: list[dict], launcher: str) -> int:
    """Run the jobs with the given arguments (including `output_dir`); returns 0.

    Raises:
        UserError: DomainBed has no such launcher.
        RunError: jobs have failed.
    """
    from domainbed import command_launchers
    from domainbed.scripts import sweep

    if launcher not in command_launchers.REGISTRY:
        raise UserError(f"there is no launcher {launcher!r}; there are {', '.join(command_launchers.REGISTRY)}")
    jobs = []
    for args in plan:
        folder = Path(args["output_dir"])
        job = sweep.Job({name: value for name, value in args.items() if name != "output_dir"}, str(folder.parent))
        assert Path(job.output_dir) == folder  # the folders' names are DomainBed's
        if is_standin() or job.state == sweep.Job.NOT_LAUNCHED:  # the others run elsewhere
            jobs.append(job)
    sweep.Job.launch(jobs, command_launchers.REGISTRY[launcher])
    return 0


if __name__ == "__main__":
    sys.exit(main())
