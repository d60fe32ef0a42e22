from __future__ import annotations

import io
import subprocess
import sys
import warnings

import pytest

from cim_dg.errors import Notice, exit_code, warn


def printed(code: str) -> str:
    """What a program writes to stderr."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr


def test_our_warnings_are_one_line_without_a_path_and_others_as_python_shows_them():
    ours = "import warnings\nfrom cim_dg.errors import warn\nwarn('the batch is small')\n"
    assert printed(ours) == "warning: the batch is small\n"
    assert "<string>:4: UserWarning: something else" in printed(ours + "warnings.warn('something else')")


def test_in_our_commands_no_warning_shows_a_path():
    code = "import warnings\nfrom cim_dg import cli\ntry:\n  cli.main(['--version'])\nexcept SystemExit:\n  pass\n"
    assert printed(code + "warnings.warn('of another package')") == "warning: of another package\n"


def test_they_are_warnings_that_can_be_caught():
    with pytest.warns(Notice, match="small"):
        warn("the batch is small")
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        warn("the batch is small")


def test_a_program_that_has_closed_its_output_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert exit_code(lambda: 3) == 3
