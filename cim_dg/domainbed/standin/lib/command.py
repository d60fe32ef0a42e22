"""How every command of the stand-in begins (it says what it is) and ends (one sentence and an exit code)."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from typing import Protocol

from cim_dg.errors import LEFT, LeftToAnother, RunError, UserError
from cim_dg.runtime import settings

NOTICE = (
    "This is cim-dg's stand-in for DomainBed. To use the real one: git clone "
    "https://github.com/facebookresearch/DomainBed, then run inside the clone or put it on PYTHONPATH."
)
ANNOUNCED = "CIM_DG_STANDIN_ANNOUNCED"
"""Environment variable that a sweep sets for its jobs: they need not repeat on the terminal what it has said."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Writable(Protocol):
    """What `print` needs of a stream."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def announce(stream: Writable | None = None) -> None:
    """Write the one line that tells this from a real DomainBed to `stream` (default: stderr)."""
    print(NOTICE, file=stream or sys.stderr, flush=True)


def announced() -> bool:
    """Whether the command that started this one has announced the stand-in already."""
    return settings.get(ANNOUNCED)


def run(function: Callable[[], object]) -> int:
    """Call `function` and give the command's exit code: 0 done, 1 a run failed, 2 wrong input, 75 left to another
    process, 130 interrupted.

    What the user can put right is one sentence on stderr; a traceback means a bug.
    """
    try:
        function()
        return 0
    except (UserError, NotImplementedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return LEFT if isinstance(error, LeftToAnother) else 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            traceback.print_exc()
        else:
            where = f" {error.filename}" if error.filename else ""
            print(f"error: there is no room to write{where}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
