"""The errors of this package's commands: one sentence on stderr, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Wrong input: the message names the value and what is accepted. Commands exit with 2."""


class RunError(RuntimeError):
    """The input was right but a run failed (a loss that is not finite, say). Commands exit with 1."""


class LeftToAnother(RunError):
    """Nothing failed, but another process is running the job. Commands exit with 75 (EX_TEMPFAIL)."""


LEFT = 75
NO_READER = 141  # 128 + SIGPIPE, as other commands


class Notice(UserWarning):
    """A warning of this package: about the user's data or settings, and not about code."""


_SHOWN_PLAINLY: set[type[Warning]] = set()


def warn(message: str, stacklevel: int = 1) -> None:
    """Give a `Notice`, which is shown as one line, without a place in the source."""
    import warnings

    plain_warnings(Notice)
    warnings.warn(message, Notice, stacklevel=stacklevel + 1)


def plain_warnings(shown_plainly: type[Warning]) -> None:
    """From here on show warnings of this category as `warning: MESSAGE`, and others as before."""
    import warnings

    if not _SHOWN_PLAINLY:
        before = warnings.formatwarning

        def plain(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
        ) -> str:
            if issubclass(category, tuple(_SHOWN_PLAINLY)):
                return f"warning: {message}\n"
            return before(message, category, filename, lineno, line)

        warnings.formatwarning = plain
    _SHOWN_PLAINLY.add(shown_plainly)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)


def exit_code(run: Callable[[], int | None], program: str = "") -> int:
    """Call `run` and return its exit code (None counts as 0), or the exit code of the error that it raises.

    That is 2 for a UserError or a path that cannot be used (too long, or a folder where a file is written), 1 for a
    RunError or a full disk, 75 for LeftToAnother, and 130 if it is interrupted; the error is one line on stderr, after
    the name of the `program` if there is one. It is 141, without a line, if nobody reads the output any more, as after
    `| head`. Other errors pass through.
    """
    prefix = f"{program}: " if program else ""
    try:
        code = run() or 0
        with contextlib.suppress(ValueError):  # WILDS' run_expt.py closes it
            sys.stdout.flush()  # here, where a full disk is still an error that can be told
        return code
    except (UserError, RunError) as error:
        print(f"{prefix}error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else LEFT if isinstance(error, LeftToAnother) else 1
    except BrokenPipeError:
        _discard_output()
        return NO_READER
    except OSError as error:
        if error.errno in _NO_PATH:
            path = _shortened(str(error.filename2 or error.filename))
            print(f"{prefix}error: the path {path!r}: {error.strerror}", file=sys.stderr)
            return 2
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"{prefix}error: there is no room to write{where}: {error.strerror}", file=sys.stderr)
        _discard_output()
        return 1
    except UnicodeEncodeError as error:
        text = _shortened(error.object[max(0, error.start - 30) :])
        print(f"{prefix}error: {text!r} is not text that {error.encoding} has", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prefix}interrupted", file=sys.stderr)
        return 130


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."


def _discard_output() -> None:
    """Drop what stdout could not take, which the interpreter would try to write again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
