"""The renderers: whole, escaped, and formats that other programs take."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_sweeps import write_sweep

from cim_dg.results import build, render_csv, render_latex, render_markdown, render_text
from cim_dg.results.best import changed_text
from cim_dg.results.build import Report
from cim_dg.results.fit import fit
from cim_dg.results.grids import Grid
from cim_dg.results.records import Run

ODD = "a_b & 50% $x$ #1 {c} ~ ^ \\ <tag> `q` | *s* — ± †"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root, "VLCS", 4, algorithms=["ERM", "CIM", "CIM_VIB"], hparams_seeds=2)
    return build.report([root], rules=["iid", "leave-one-out"], best_hparams=True)


def test_text_is_whole(report: Report) -> None:
    text = render_text.render(report.grids())
    assert "…" not in text
    for table in report.tables:
        for row in table.rows:
            for cell in row.cells.values():
                assert (cell.printed or f"{cell.mean:.1f} ± {cell.stderr:.1f}") in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text
    assert "\x1b" in render_text.render(report.grids(), colour=True)


def test_text_lines_up(report: Report) -> None:
    lines = render_text.render([report.grids()[0]]).splitlines()
    assert [re.sub(" {2,}", "|", line.strip()) for line in lines[2:3]] == [
        "Method|From|Protocol|Caltech|LabelMe|Pascal|Sun|Average|Trials"
    ]
    assert set(lines[3].strip()) == {"─"}


def test_markdown_tables_have_as_many_cells_in_every_row(report: Report) -> None:
    text = render_markdown.render(report.grids())
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
    assert "CIM\\_VIB" in text
    assert "<br>[" in text


def test_markdown_escapes_what_would_be_markup() -> None:
    text = render_markdown.render([Grid("t", ["a"], [[[ODD]]], [False], numeric=[False])])
    assert r"a\_b" in text
    assert r"\<tag>" in text
    assert r"\|" in text


def test_latex_escapes_every_special_character() -> None:
    escaped = render_latex.escape(ODD)
    bare = re.sub(r"\\[a-z]+\{\}|\\[&%$#_{}]|\$[^$]+\$", "", escaped)
    assert not set(bare) & set("\\&%$#_{}~^<>`±—†")
    assert render_latex.escape("-1.5 CIM-x [-2, 3]") == "$-$1.5 CIM-x [$-$2, 3]"
    assert render_latex.escape("\N{SNOWMAN}") == "(U+2603)"


def test_latex_rows_have_as_many_cells_as_columns(report: Report) -> None:
    text = render_latex.render(report.grids())
    for columns, body in re.findall(r"\\begin\{longtable\}\{([lr]+)\}(.*?)\\end\{longtable\}", text, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    assert text.count("\\toprule") == text.count("\\bottomrule") == text.count("\\midrule\n\\endhead") > 0


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed: the LaTeX is not compiled here"
)
def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    odd = Grid(ODD, [ODD], [[[ODD, "[1.0, 2.0]"]], [["[0, 1]"]]], [False, True], [ODD], [False])
    (tmp_path / "tables.tex").write_text(render_latex.render([*report.grids(), odd]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_has_a_line_per_figure(report: Report) -> None:
    lines = list(csv.DictReader(render_csv.render(report).splitlines()))
    cells = sum(len(row.cells) for table in report.tables for row in table.rows)
    assert len(lines) == cells + sum(len(aggregate.means) for aggregate in report.over_datasets)
    (line,) = [
        one
        for one in lines
        if (one["method"], one["column"], one["selection"], one["published"]) == ("CIM", "Sun", "iid", "no")
    ]
    row = next(one for one in report.tables[0].rows if one.method == "CIM" and not one.published)
    assert float(line["value"]) == row.cells["Sun"].mean
    assert line["baseline"] == "ERM"
    assert line["verdict"]


def test_best_hparams_name_the_selected_run(report: Report) -> None:
    grid = report.best[0]
    assert len(grid.rows) == 3 * 4 * 3  # methods, domains, trials
    row = grid.rows[0]
    assert row[0] == ["CIM"]
    seed = int(row[4][0])
    assert f"lr={1e-3 * (1 + seed)}" in " ".join(row[-1])
    assert row[-2][0].startswith("not kept (")
    # What the method does not use (of a ResNet-18, batches of 32 are the default) and defaults are not listed.
    assert "batch_size" not in " ".join(row[-1])
    assert "resnet18=True" in " ".join(row[-1])


def run_of(algorithm: str, dataset: str, **hparams: object) -> Run:
    args = {"algorithm": algorithm, "dataset": dataset}
    return Run(Path("x"), "domainbed", dataset, algorithm, 0, test_envs=(0,), hparams=hparams, args=args)


@pytest.mark.parametrize(
    ("algorithm", "dataset", "hparams", "shown"),
    [
        ("CIM", "VLCS", {"cim_lambda": 10.0, "lr": 5e-5, "average_copies": 0}, "defaults"),
        (
            "CIM",
            "VLCS",
            {"cim_lambda": 3.0, "vit": False, "vit_dropout": 0.5, "resnet_dropout": 0.1},
            "cim_lambda=3.0, resnet_dropout=0.1",
        ),
        ("CIM", "VLCS", {"vit": True, "vit_dropout": 0.5}, "vit=True, vit_dropout=0.5"),
        (
            "CIM",
            "NuisanceDigits",
            {"lr": 1e-3, "resnet_dropout": 0.1, "nuisance_background": "plain"},
            "nuisance_background=plain",
        ),
        ("SomeoneElses", "SomeData", {"lr": 1.0, "its_own": 7}, "its_own=7, lr=1.0"),
        ("CIM", "VLCS", {}, "unknown"),
    ],
)
def test_selected_hparams_are_those_that_are_used_and_no_defaults(
    algorithm: str, dataset: str, hparams: dict[str, object], shown: str
) -> None:
    assert changed_text(run_of(algorithm, dataset, **hparams)) == shown


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_a_terminal_gets_lines_of_its_width_and_every_figure(report: Report, width: int) -> None:
    text = render_text.render(report.grids(), width=width)
    assert max(map(len, text.splitlines())) <= width
    for table in report.tables:
        for row in table.rows:
            for cell in row.cells.values():
                assert (cell.printed or f"{cell.mean:.1f} ± {cell.stderr:.1f}") in text


def test_columns_that_do_not_fit_follow_under_the_same_labels() -> None:
    grid = Grid(
        "title",
        ["Method", "First", "Second"],
        [[["CIM"], ["1" * 30], ["2" * 30]]],
        [False],
        ["note"],
        [False, True, True],
    )
    first, second = fit(grid, 50)
    assert [first.header, second.header] == [["Method", "First"], ["Method", "Second"]]
    assert (first.notes, second.notes) == ((), ["note"])
    assert second.title == "title (more columns)"
    assert fit(grid, 80) == [grid]


def test_paths_and_sentences_are_folded_and_no_word_or_figure_is_cut() -> None:
    grid = Grid(
        "t",
        ["From", "Value"],
        [[["domainbed-standin/runs/0123456789 lr=1e-05"], ["85.0 ± 1.2"]]],
        [False],
        numeric=[False, True],
    )
    ((cells, figures),) = fit(grid, 30)[0].rows
    assert cells == ["domainbed-", "standin/runs/", "0123456789", "lr=1e-05"]
    assert figures == ["85.0 ± 1.2"]


def test_a_pipe_gets_the_whole_table_and_a_terminal_what_fits(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert render_text.for_stdout(report.grids()) == render_text.render(report.grids())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    plain = re.sub("\x1b\\[[0-9;]*m", "", render_text.for_stdout(report.grids()))
    lines = [line.rstrip() for line in plain.splitlines()]
    assert lines == render_text.render(report.grids(), width=80).splitlines()
