"""The two ways in which a command of this package ends badly; both are one sentence on stderr, never a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input: the message names the value and what is accepted. Commands exit with 2."""


class RunError(RuntimeError):
    """The input was right but a run failed (a loss that is not finite, say). Commands exit with 1."""
