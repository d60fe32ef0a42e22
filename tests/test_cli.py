from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from cim_dg import __version__, cli
from cim_dg.errors import RunError, UserError


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("x is 3; accepted is 2"), 2, "cim-dg: error: x is 3; accepted is 2\n"),
        (RunError("a job failed"), 1, "cim-dg: error: a job failed\n"),
        (KeyboardInterrupt(), 130, "cim-dg: interrupted\n"),
    ],
)
def test_whatever_ends_badly_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, message):
    def fail(arguments):
        raise error

    monkeypatch.setattr("cim_dg.commands.doctor.run", fail)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == message


def test_output_that_nobody_reads_any_more_is_no_error():
    words = [sys.executable, "-m", "cim_dg.cli", "completion", "bash"]
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout and command.stderr
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait() == 141


def test_wrong_usage_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["dcotor"])
    assert raised.value.code == 2


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"cim-dg {__version__}\n"


def test_putting_the_command_together_imports_nothing_heavy():
    heavy = {"torch", "numpy", "pandas", "matplotlib"}
    code = f"import sys; from cim_dg import cli; cli.parser(); print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_command_imports_its_own_module_alone(monkeypatch):
    def commands(name=None):
        return list(next(filter(None, (action.choices for action in cli.parser(name)._actions))))

    assert commands() == list(cli.COMMANDS)
    imported = []
    monkeypatch.setattr(cli, "import_module", lambda name: imported.append(name) or import_module(name))
    for name, module in cli.COMMANDS.items():
        assert commands(name) == [name]
        assert imported.pop() == module and not imported


def test_doctor_finds_the_standin_and_what_is_registered(capsys, tmp_path):
    (tmp_path / "VLCS").mkdir()
    assert cli.main(["doctor", "--data_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "CIM_VIB" in out and "NuisanceDigits" in out and "parallel" in out
    assert f"datasets in {tmp_path}" in out and "VLCS" in out


def test_doctor_says_which_folders_are_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINBED_ROOT", str(tmp_path / "clone"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    cli.main(["doctor", "--data_dir", str(tmp_path / "data")])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["DOMAINBED_ROOT", f"there is no folder {tmp_path / 'clone'}"] in lines
    assert ["PYTHONPATH", f"there is no folder {tmp_path / 'path'}"] in lines
    assert any(line[0] == "datasets" and line[1].endswith("there is no such folder") for line in lines)


@pytest.mark.harness
def test_doctor_names_a_real_domainbed_and_its_commit(domainbed_root):
    run = subprocess.run(
        [sys.executable, "-c", "from cim_dg import autoload, cli; autoload.install(); cli.main(['doctor'])"],
        cwd=domainbed_root,
        capture_output=True,
        text=True,
        check=True,
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=domainbed_root, capture_output=True, text=True, check=True)
    assert f"{domainbed_root.resolve()}, commit {head.stdout.strip()}" in run.stdout
