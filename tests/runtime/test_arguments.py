from __future__ import annotations

import argparse
import runpy
import sys

import pytest

from cim_dg import cli
from cim_dg.runtime.arguments import Parser


def failure(capsys, *words):
    """What a wrong call of `cim-dg` prints, which must be one line."""
    with pytest.raises(SystemExit) as raised:
        cli.main(list(words))
    printed = capsys.readouterr()
    assert raised.value.code == 2 and printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("words", "sentence", "command"),
    [
        (["dcotor"], "there is no command 'dcotor'; accepted is demo, sweep, ", "cim-dg"),
        (["collect", "--fromat", "csv"], "there is no option --fromat; did you mean '--format'?", "cim-dg collect"),
        (["sweep", "--outptu_dir=x"], "there is no option --outptu_dir; did you mean '--output_dir'?", "cim-dg sweep"),
        (
            ["collect", "--format", "tex"],
            "--format is 'tex'; accepted is text, markdown, latex, csv, html; did you mean 'text'?",
            "cim-dg collect",
        ),
        (["doctor", "extra"], "nothing takes the argument 'extra'", "cim-dg doctor"),
        (["data", "gett"], "there is no command 'gett'; accepted is list, get,", "cim-dg data"),
        (["morph"], "the following arguments are required: --checkpoint, --output", "cim-dg morph"),
        ([], "the following arguments are required: COMMAND", "cim-dg"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name_and_where_the_help_is(capsys, words, sentence, command):
    line = failure(capsys, *words)
    assert line.startswith(f"{command}: error: {sentence}")
    assert line.endswith(f"(help: {command} --help)\n")


def test_options_that_are_added_late_are_known_too(capsys):
    words = ["--dataset", "waterbirds", "--algorithm", "CIM", "--root_dir", "d", "--cim_lamda", "3"]
    line = failure(capsys, "wilds", "train", *words)
    assert "there is no option --cim_lamda; did you mean '--cim_lambda'?" in line


@pytest.mark.parametrize("script", ["train", "sweep", "collect_results", "list_top_hparams"])
def test_the_scripts_of_the_standin_too(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--inptu_dir", "x"])
    monkeypatch.delitem(sys.modules, f"domainbed.scripts.{script}", raising=False)
    with pytest.raises(SystemExit) as ended:  # as `python -m` runs it, which takes seconds to import PyTorch
        runpy.run_module(f"domainbed.scripts.{script}", run_name="__main__", alter_sys=True)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"domainbed.scripts.{script}: error: there is no option --inptu_dir; did you mean ")
    assert error.endswith(f"(help: python -m domainbed.scripts.{script} --help)\n")
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture
def targets():
    parser = Parser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--to", nargs="+", action="extend", choices=("tensorboard", "wandb"))
    parser.add_argument("--follow", action="store_true")
    return parser


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "tensorboard", "wandb", "a", "b"],
        ["a", "b", "--to", "tensorboard", "wandb"],
        ["--to", "tensorboard", "--to=wandb", "--follow", "a", "b"],
        ["--to", "tensorboard", "wandb", "--", "a", "b"],
    ],
)
def test_a_list_of_choices_ends_where_another_word_comes(targets, words):
    arguments = targets.parse_args(words)
    assert arguments.to == ["tensorboard", "wandb"] and arguments.folders == ["a", "b"]


def test_words_after_two_dashes_are_left_as_they_are(targets):
    assert targets.parse_args(["--to", "wandb", "--", "--to", "tensorboard"]).folders == ["--to", "tensorboard"]


def test_a_wrong_first_choice_is_refused_and_no_folder(targets, capsys):
    with pytest.raises(SystemExit):
        targets.parse_args(["--to", "tensorbord", "a"])
    assert (
        "--to is 'tensorbord'; accepted is tensorboard, wandb; did you mean 'tensorboard'?" in capsys.readouterr().err
    )


def test_options_with_a_list_of_choices_and_folders_after_them_are_of_the_action_extend():
    """Else the words before the last would be lost."""

    def check(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    check(inner)
            elif action.option_strings and action.choices is not None and action.nargs in ("+", "*"):
                assert type(action).__name__ == "_ExtendAction", (parser.prog, action.option_strings)

    check(cli.parser())


def test_a_word_that_is_not_utf_8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--output")
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", "\udcff"])
    assert r"the argument '\udcff' is not text in UTF-8" in capsys.readouterr().err
