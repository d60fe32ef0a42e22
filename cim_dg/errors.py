"""The two ways in which a command of this package ends badly; both are one sentence on stderr, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Wrong input: the message names the value and what is accepted. Commands exit with 2."""


class RunError(RuntimeError):
    """The input was right but a run failed (a loss that is not finite, say). Commands exit with 1."""


class LeftToAnother(RunError):
    """Nothing failed, but another process is running what was asked for. Commands exit with 75 (EX_TEMPFAIL)."""


LEFT = 75


def exit_code(run: Callable[[], int], program: str) -> int:
    """Call `run`, which returns an exit code, and give that code, or that of the error that it raises.

    That is 2 for a UserError, 1 for a RunError, 75 for LeftToAnother, and 130 if it is interrupted.
    """
    try:
        return run()
    except (UserError, RunError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else LEFT if isinstance(error, LeftToAnother) else 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
