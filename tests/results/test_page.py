"""The page: whole in itself, accessible, and right in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job, write_sweep

from cim_dg.results import apart, build, morph_picture, morphs, page, run_facts
from cim_dg.results.build import Report

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "dccc59e70000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("runs")
    write_sweep(root / "real", "VLCS", 4, hparams_seeds=1, pairs=False)
    write_sweep(
        root / "standin", "NuisanceDigits", 3, algorithms=["ERM", "CIM", "<b>odd</b>"], hparams_seeds=1, pairs=False
    )
    for place, folder in enumerate(sorted((root / "standin").iterdir())):
        made = {
            "harness": "domainbed-standin",
            "versions": {"torch": "2.9.9"},
            "device": "cpu",
            "command": ["train", str(place)],
        }
        (folder / "provenance.json").write_text(json.dumps(made))
    return build.report([root], best_hparams=True)


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "morph_pictures", lambda records: [morphs.Picture("x, m and psi(x): a test", PNG)])
        return page.render(report)


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def test_nothing_is_fetched(text: str, read: _Reader) -> None:
    assert "default-src 'none'" in text
    assert not read.of("script")
    assert not read.of("link")
    assert all(str(image["src"]).startswith("data:") for image in read.of("img"))
    assert all(str(link["href"]).startswith("#") for link in read.of("a"))
    assert not re.search(r"url\(|@import", text)


def test_it_can_be_read_without_eyes(read: _Reader) -> None:
    assert read.of("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in read.of("img"))
    assert all(cell.get("scope") in ("col", "row") for cell in read.of("th"))
    assert len(read.of("caption")) == len(read.of("table"))
    assert len(read.of("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {str(link["href"])[1:] for link in read.of("a")} <= set(identifiers)


def test_everything_is_there(text: str, report: Report, read: _Reader) -> None:
    assert len(read.of("table")) == len(report.grids()) + len(read.of("details"))
    # Accuracies, differences, learning curves, in-domain against out-of-domain; and the picture.
    assert len(read.of("img")) == 4 * 2 + 1
    assert "98.21" in text
    assert "2.9.9" in text
    assert "&lt;b&gt;odd&lt;/b&gt;" in text
    assert "<b>odd" not in text


def test_provenance_of_the_real_domainbed_is_what_its_folder_says(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", job_args("VLCS", "ERM", [2], 1) | {"seed": 99}, [record(0, [0.5] * 8)])
    (folder / "out.txt").write_text("Environment:\n\tPython: 3.11.7\n\tPyTorch: 2.14.1\nArgs:\n\talgorithm: ERM\n")
    (run,) = build.report([tmp_path]).records.runs  # type: ignore[union-attr]
    facts = run_facts.facts(run)
    assert facts["Versions"] == "Python 3.11.7, PyTorch 2.14.1"
    assert facts["Test domain"] == "Sun"
    assert facts["Seed"] == "99"
    assert facts["Command"].startswith("python -m domainbed.scripts.train --algorithm ERM")
    assert "--test_envs 2" in facts["Command"]
    assert facts["Commit"] == facts["Device"] == facts["Weights at the start"] == "unknown"


def test_shared_facts_are_said_once(report: Report) -> None:
    group = next(one for one in run_facts.groups(report.records.runs) if one.title.startswith("NuisanceDigits: CIM"))  # type: ignore[union-attr]
    assert ("Versions", "torch 2.9.9") in group.shared
    assert "Command" in group.header
    assert len(group.rows) == 9


def test_runs_without_a_model_have_no_picture(report: Report) -> None:
    assert morphs.morph_pictures(report.records) == []  # type: ignore[arg-type]


def test_a_model_that_cannot_be_drawn_is_no_error(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", job_args("VLCS", "CIM", [0], 0), [record(0, [0.5] * 8)])
    lines = (folder / "results.jsonl").read_text().replace('"hparams": {"', '"hparams": {"cim_lambda": 1, "')
    (folder / "results.jsonl").write_text(lines)
    (folder / "model.pkl").write_bytes(b"not a model")
    (run,) = build.report([tmp_path]).records.runs  # type: ignore[union-attr]
    assert run.hparams["cim_lambda"] == 1
    assert morphs.morph_pictures(build.report([tmp_path]).records) == []  # type: ignore[arg-type]


def test_morphs_that_a_job_kept_are_drawn_without_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_job(
        tmp_path / "job", job_args("NuisanceDigits", "CIM", [2], 0), [record(0, [0.5] * 6)], cim_lambda=1
    )
    (folder / "model.pkl").write_bytes(b"not read")
    rng = np.random.default_rng(0)
    kept = morph_picture.Morphs("CIM", rng.random((2, 3, 9, 9)), rng.random((2, 1, 9, 9)), ["new: 1", "new: 2"])
    kept.write(folder / morph_picture.FILE)
    asked: list[Any] = []
    monkeypatch.setattr(apart.subprocess, "run", lambda *command, **options: asked.append(command))
    records = build.report([tmp_path]).records
    assert records is not None
    (picture,) = morphs.morph_pictures(records)
    assert picture.png.startswith(PNG[:8]) and "CIM on NuisanceDigits" in picture.caption and not asked
    whole = (folder / morph_picture.FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        (folder / morph_picture.FILE).write_bytes(damaged)
        assert morph_picture.read(folder / morph_picture.FILE) is None
        assert morphs.morph_pictures(records) == [] and asked.pop()  # `cim-dg morph` is asked, and draws nothing here


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, as Debian's packages chromium and chromium-driver install it."""
    selenium = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: the page is not opened in a browser"
    )
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if binary is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: the page is not opened in a browser")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield started
    started.quit()


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desktop"])
def test_in_a_browser(browser: Any, text: str, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    look = browser.execute_script(
        """
        const seen = element => element.getClientRects().length > 0;
        return {
          tables: [...document.querySelectorAll("main > section table")].filter(seen).length,
          images: [...document.images].map(image => image.naturalWidth > 0 && seen(image)),
          fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name =>
          !name.startsWith("data:")), wide: document.documentElement.scrollWidth, width: window.innerWidth, widest:
          Math.max(...[...document.images].map(image => image.getBoundingClientRect().right)),
        };
        """
    )
    assert look["tables"] >= 6
    assert look["images"]
    assert all(look["images"])
    assert look["fetched"] == []
    assert look["wide"] <= look["width"] == width, "only a table may scroll sideways, not the page"
    assert look["widest"] <= width
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    cut = browser.execute_script(
        """
        return [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).map(box => {
          const hint = box.previousElementSibling;
          return hint !== null && hint.matches(".hint") && hint.getClientRects().length > 0;
        });
        """
    )
    assert all(cut), "a table that is cut says that it can be scrolled"
    assert width > 600 or len(cut) >= 3
