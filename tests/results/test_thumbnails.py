"""Pictures of the images on which methods disagree: the right ones, from both harnesses."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job
from made_wilds_logs import write_wilds_log
from PIL import Image

from cim_dg import cli
from cim_dg.commands import thumbnails as drawing
from cim_dg.domainbed.datasets import nuisance_environments
from cim_dg.results import apart, outputs, thumbnails
from cim_dg.results.outputs import Outputs
from cim_dg.wilds import digits


def _pixels(jpeg: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg) if isinstance(jpeg, bytes) else jpeg)) / 255


def _sweep(root: Path, labels: list[int]) -> None:
    """ERM and CIM, tested on 'new', disagree on images 3 to 5."""
    for method, shift in (("ERM", 0), ("CIM", 1)):
        folder = root / method
        write_job(folder, job_args("NuisanceDigits", method, [2], 0), [record(0, [0.5] * 6)])
        predicted = (np.array(labels) + shift) % 10
        outputs.keep(folder, Outputs(np.eye(10, dtype=np.float32)[predicted], np.array(labels), np.array([3, 4, 5]), 0))


def test_the_page_shows_the_images_on_which_methods_disagree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = nuisance_environments()[2]
    _sweep(tmp_path / "runs", new.labels[3:6].tolist())
    page = tmp_path / "page.html"
    assert (
        cli.main(["collect", str(tmp_path / "runs"), "--format", "html", "--show_images", "--output", str(page)]) == 0
    )
    html = page.read_text()
    pictures = dict(
        re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="The image new (\d+), class \d\.">', html)
    )
    assert sorted(pictures.values()) == ["3", "4", "5"]
    for encoded, number in pictures.items():
        jpeg = base64.b64decode(encoded)
        expected = new.images[int(number)].permute(1, 2, 0).numpy()
        assert np.abs(_pixels(jpeg) - expected).mean() < 0.05 and len(jpeg) < 4000
    capsys.readouterr()
    assert cli.main(["collect", str(tmp_path / "runs"), "--show_images"]) == 2
    assert "--show_images shows images on a page, and --format is text; accepted is html" in capsys.readouterr().err


def test_requests_name_the_dataset_of_each_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And images that nobody has written are left out."""
    from cim_dg.results import build, disagreement

    _sweep(tmp_path / "digits", [0, 1, 2])
    for method, predicted in (("ERM", 0), ("CIM", 1)):
        folder = write_wilds_log(tmp_path / method, method, config={"dataset": "waterbirds", "root_dir": "data"})
        found = Outputs(np.eye(2, dtype=np.float32)[[predicted]], np.array([1]), np.array([9]), 1)
        found.write(folder / "waterbirds_split:test_seed:0_epoch:best_logits.npz")
    sent = []
    monkeypatch.setattr(apart.subprocess, "run", lambda *_, input, **__: sent.extend(json.loads(input)))
    report = build.report([tmp_path])
    assert report.records is not None
    named = [disagreement.named(disagreement.pairs(table, report.records)) for table in report.tables]
    assert thumbnails.thumbnails(named, report.records) == [[] for _ in report.tables]
    of_digits, of_wilds = sent
    assert of_digits["dataset"] == "NuisanceDigits" and of_digits["env"] == 2 and of_digits["root"]
    assert of_digits["images"] == [[3, 0], [4, 1], [5, 2]]
    assert of_wilds["dataset"] == "waterbirds" and of_wilds["root"] == "data" and "env" not in of_wilds
    assert of_wilds["images"] == [[9, 1]]


def test_images_of_wilds_and_of_another_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": (6, 3, 2, 8), "val": (1, 1, 1, 1), "test": (1, 1, 1, 1)}
    monkeypatch.setattr(digits, "SIZES", sizes)
    folder = digits.write_digits(tmp_path)
    rows = (folder / "metadata.csv").read_text().splitlines()[1:]
    label = int(rows[7].split(",")[2])
    request = {"dataset": "waterbirds", "version": None, "root": str(tmp_path), "folder": str(tmp_path)}
    drawing.write({**request, "images": [(7, label), (8, 9), (10**6, 0)]})
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["7.jpg"]
    assert np.abs(_pixels(tmp_path / "7.jpg") - _pixels(folder / "images" / "0007.jpg")).mean() < 0.03
