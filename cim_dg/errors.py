"""The errors of this package's commands: one sentence on stderr, never a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Wrong input: the message names the value and what is accepted. Commands exit with 2."""


class RunError(RuntimeError):
    """The input was right but a run failed (a loss that is not finite, say). Commands exit with 1."""


class LeftToAnother(RunError):
    """Nothing failed, but another process is running the job. Commands exit with 75 (EX_TEMPFAIL)."""


LEFT = 75


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exit_code(run: Callable[[], int | None], program: str = "") -> int:
    """Call `run` and return its exit code (None counts as 0), or the exit code of the error that it raises.

    That is 2 for a UserError, 1 for a RunError or a full disk, 75 for LeftToAnother, and 130 if it is interrupted; the
    error is one sentence on stderr, after the name of the `program` if there is one. Other errors pass through.
    """
    prefix = f"{program}: " if program else ""
    try:
        return run() or 0
    except (UserError, RunError) as error:
        print(f"{prefix}error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else LEFT if isinstance(error, LeftToAnother) else 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"{prefix}error: there is no room to write{where}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prefix}interrupted", file=sys.stderr)
        return 130
