"""How a harness' program ends on an input that we refuse: with one sentence and an exit code, as our commands do."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from cim_dg.errors import RunError, UserError, exit_code

_PACKAGES = ("domainbed", "subpopbench")
_SCRIPTS = ("run_expt.py", "train_all.py")


def end_in_a_sentence() -> None:
    """Have an error of ours that nobody catches end the program in a line on stderr, if it is a harness' that runs.

    The exit code is that of `cim_dg.errors.exit_code`. Other errors keep their traceback, and so do ours in a program
    of somebody's own that imports a harness.
    """
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None) or ""
    script = os.path.basename(getattr(main, "__file__", None) or "")
    if (module.split(".")[0] in _PACKAGES or script in _SCRIPTS) and sys.excepthook is not _hook:
        global _previous
        _previous, sys.excepthook = sys.excepthook, _hook


_previous = sys.__excepthook__


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, (UserError, RunError)):
        _previous(kind, error, traceback)
        return

    def fail() -> int:
        raise error

    raise SystemExit(exit_code(fail))  # which the interpreter takes from a hook
