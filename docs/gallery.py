"""Builds the gallery: `make gallery` runs the missing jobs of the demo, and stores its pictures and report.

The report is the page of `cim-dg collect --format html`; the tables are the output of `cim-dg collect`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

GALLERY = Path(__file__).parent / "gallery"
RUNS = Path("runs/gallery")


def cim_dg(*arguments: str | Path) -> str:
    """Run a command of cim-dg; returns what it prints."""
    command = [sys.executable, "-m", "cim_dg.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Run the demo, then write GALLERY."""
    GALLERY.mkdir(exist_ok=True)
    cim_dg("demo", "--output_dir", RUNS)
    (GALLERY / "tables.txt").write_text(cim_dg("collect", RUNS), encoding="utf-8")
    page = (RUNS / "report.html").read_text(encoding="utf-8").replace(sys.executable, "python")  # of any machine
    (GALLERY / "report.html").write_text(page, encoding="utf-8")
    picture = Image.open(RUNS / "morph.png").convert("P", palette=Image.Palette.ADAPTIVE)  # 256 colours: a small file
    picture.save(GALLERY / "morph.png", optimize=True)


if __name__ == "__main__":
    main()
