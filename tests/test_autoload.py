"""The hook at start-up, in interpreters of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
START = "from cim_dg import autoload; autoload.install()\n"
"""What the .pth file does at start-up: so that these tests hold from a bare checkout too."""


def python(code: str, cwd: Path, *paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, [ROOT, *paths]))
    return subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def other_domainbed(tmp_path) -> Path:
    """A folder with a `domainbed` of the seams alone, some of them missing."""
    package = tmp_path / "clone" / "domainbed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "algorithms.py").write_text("ALGORITHMS = ['ERM', 'VIB']\nVIB = 'upstream'\n")  # no Algorithm
    (package / "datasets.py").write_text(
        "DATASETS = ['VLCS']\n"
        "class MultipleDomainDataset: pass\n"
        "class MultipleEnvironmentImageFolder(MultipleDomainDataset): pass\n"
        "def num_environments(name): return 3\n"
        "VLCSMini = 'upstream'\n"
    )
    return package.parent


def test_nothing_of_ours_or_theirs_is_imported_at_start_up(tmp_path):
    code = (
        "import sys; print([m for m in ('torch', 'numpy', 'importlib.metadata', 'cim_dg.errors') if m in sys.modules])"
    )
    assert python(code, tmp_path).stdout.strip() == "[]"


def test_the_standin_serves_where_there_is_no_domainbed(tmp_path):
    code = "import domainbed, domainbed.algorithms as a; print(domainbed.STANDIN, a.CIM.__name__, a.ALGORITHMS)"
    assert python(code, tmp_path).stdout.strip() == "True CIM ['ERM', 'GroupDRO']"


@pytest.mark.parametrize("variable", ["CIM_DG_AUTOLOAD", "CIM_DG_STANDIN"])
def test_the_standin_is_refused_on_request(tmp_path, variable):
    assert "No module named 'domainbed'" in python("import domainbed", tmp_path, **{variable: "0"}).stderr


def test_another_domainbed_is_never_shadowed(tmp_path, other_domainbed):
    code = "import domainbed.datasets as d; print(hasattr(d, 'NuisanceDigits'), d.__file__)"
    for run in (python(code, other_domainbed), python(code, tmp_path, other_domainbed)):
        assert run.stdout.split() == ["True", str(other_domainbed / "domainbed" / "datasets.py")], run.stderr


def test_a_mere_folder_of_that_name_is_no_domainbed(tmp_path):
    (tmp_path / "domainbed").mkdir()
    assert python("import domainbed; print(domainbed.STANDIN)", tmp_path).stdout.strip() == "True"


def test_switched_off_it_adds_nothing(other_domainbed):
    code = "import domainbed.datasets as d; print(hasattr(d, 'NuisanceDigits'))"
    assert python(code, other_domainbed, CIM_DG_AUTOLOAD="0").stdout.strip() == "False"


def test_a_missing_seam_is_one_warning_that_names_it_and_leaves_the_harness_working(other_domainbed):
    run = python("import domainbed.algorithms as a; print(a.ALGORITHMS, hasattr(a, 'CIM'))", other_domainbed)
    assert run.stdout.strip() == "['ERM', 'VIB'] False"
    assert run.stderr.count("cim-dg could not extend") == 1
    assert "this DomainBed has no domainbed.algorithms.Algorithm" in run.stderr


def test_names_taken_upstream_and_default_lists_are_kept(other_domainbed):
    code = "import domainbed.datasets as d; print(d.VLCSMini, d.DATASETS)"
    assert python(code, other_domainbed).stdout.strip() == "upstream ['VLCS']"


def test_reload_registers_again(tmp_path):
    code = """
        import importlib, domainbed.algorithms as a, domainbed.hparams_registry as h
        before = a.CIM
        importlib.reload(a), importlib.reload(h)
        print(a.CIM is not before, issubclass(a.CIM, a.Algorithm), 'cim_lambda' in h.default_hparams('CIM', 'VLCS'))
    """
    assert python(code, tmp_path).stdout.strip() == "True True True"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_in_child_processes(tmp_path, method):
    (tmp_path / "child.py").write_text(
        START + "def names():\n    import domainbed.algorithms as a\n    return hasattr(a, 'CIM')\n"
        "if __name__ == '__main__':\n    import multiprocessing as m\n"
        f"    with m.get_context({method!r}).Pool(1) as pool:\n        print(pool.apply(names))\n"
    )
    run = subprocess.run(
        [sys.executable, "child.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "True", run.stderr


def test_installing_twice_is_installing_once(tmp_path):
    code = "import sys; autoload.install(); print(sum(type(f).__module__ == 'cim_dg.autoload' for f in sys.meta_path))"
    assert python(code, tmp_path).stdout.strip() == "1"


@pytest.mark.parametrize(
    "order", ["import cim_dg.domainbed, domainbed.datasets", "import domainbed.datasets, cim_dg.domainbed"]
)
def test_an_explicit_import_registers_without_start_up_code(tmp_path, other_domainbed, order):
    run = subprocess.run(
        [sys.executable, "-c", f"{order}; print(hasattr(domainbed.datasets, 'NuisanceDigits'))"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(other_domainbed)]), "CIM_DG_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "True", run.stderr


@pytest.mark.harness
def test_a_real_domainbed_knows_us_from_inside_and_by_pythonpath(tmp_path, domainbed_root):
    code = """
        import domainbed.algorithms as a, domainbed.datasets as d, domainbed.command_launchers as c
        print(a.__file__, a.CIM.__name__, a.ERM.__module__, 'CIM' in a.ALGORITHMS, 'NuisanceDigits' in d.DATASETS,
              'parallel' in c.REGISTRY, sep='\\n')
    """
    for run in (python(code, domainbed_root), python(code, tmp_path, domainbed_root)):
        expected = [
            str(domainbed_root / "domainbed" / "algorithms.py"),
            "CIM",
            "domainbed.algorithms",
            "False",
            "False",
        ]
        assert run.stdout.split() == [*expected, "True"], run.stderr
