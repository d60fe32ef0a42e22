from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest

from cim_dg import cli


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "cim-dg"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert cli.main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("cim-dg co", {"collect", "completion"}),
        ("cim-dg collect --form", {"--format"}),
        ("cim-dg collect --format la", {"latex"}),
        ("cim-dg sweep water", {"waterbirds", "waterbirds-digits"}),
        ("cim-dg wilds train --cim_lam", {"--cim_lambda"}),
        ("cim-dg collect runs-of-mi", {"runs-of-mine"}),
        ("cim-dg morph --checkpoint mod", {"model.pkl"}),
    ],
)
def test_bash_completes_commands_options_choices_and_paths(bash_script, tmp_path, words, completed):
    (tmp_path / "runs-of-mine").mkdir()
    (tmp_path / "model.pkl").touch()
    given = words.split()
    script = (
        f"source {bash_script}; COMP_WORDS=({words}); COMP_CWORD={len(given) - 1}; _shtab_cim_dg; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert {word.rstrip(" /") for word in run.stdout.split("\n") if word} == completed, run.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script(capsys, shell):
    assert cli.main(["completion", shell]) == 0
    assert "waterbirds" in capsys.readouterr().out
