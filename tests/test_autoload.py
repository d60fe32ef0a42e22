"""The hook at start-up, in interpreters of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from cim_dg import autoload

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


def lay(root: Path, *files: str) -> None:
    """Files below `root`, made with their folders; a name that ends in / is an empty folder."""
    for file in files:
        path = root / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.write_text("MARK = 'theirs'\n" if path.suffix == ".py" else "")


SAY = """
    import domainbed
    where = [str(p) for p in getattr(domainbed, '__path__', ['module'])]
    print('standin' if getattr(domainbed, 'STANDIN', False) else where)
"""
THEIRS = {
    "package": ["domainbed/__init__.py", "domainbed/algorithms.py"],
    "package, algorithms a package": ["domainbed/__init__.py", "domainbed/algorithms/__init__.py"],
    "namespace": ["domainbed/algorithms.py"],
    "namespace, algorithms a package": ["domainbed/algorithms/__init__.py"],
    "namespace, algorithms a namespace": ["domainbed/algorithms/algorithms.py"],
    "namespace, scripts alone": ["domainbed/scripts/train.py"],
    "namespace, trainer alone": ["domainbed/trainer.py"],
    "namespace, with data in it": ["domainbed/data/VLCS/picture.png", "domainbed/hparams_registry.py"],
}
DOUBTFUL = {
    "package of nothing": ["domainbed/__init__.py"],
    "package of something else": ["domainbed/__init__.py", "domainbed/models.py"],
    "namespace of something else": ["domainbed/models.py"],
    "namespace, its code a level below": ["domainbed/src/models.py"],
    "the folder above a clone": ["domainbed/domainbed/algorithms.py", "domainbed/README.md"],
    "a folder of a module's name, of data": ["domainbed/datasets/picture.png"],
    "a single module": ["domainbed.py"],
}
NOBODYS = {
    "nothing": ["other/algorithms.py"],
    "empty folder": ["domainbed/"],
    "folder of data": ["domainbed/VLCS/Caltech101/bird/1.jpg", "domainbed/results.jsonl"],
    "folder of logs": ["domainbed/runs/job/done", "domainbed/runs/job/model.pkl"],
}


def served(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("files", THEIRS.values(), ids=THEIRS)
@pytest.mark.parametrize("place", ["current folder", "PYTHONPATH", "zip"])
def test_a_domainbed_of_any_form_is_theirs_without_a_word(tmp_path, files, place):
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    elsewhere.mkdir()
    lay(clone, *files)
    if place == "zip":
        clone = Path(shutil.make_archive(str(tmp_path / "clone"), "zip", clone))
    run = python(SAY, clone) if place == "current folder" else python(SAY, elsewhere, clone)
    assert (served(run), run.stderr) == (str([str(clone / "domainbed")]), "")


@pytest.mark.parametrize("files", DOUBTFUL.values(), ids=DOUBTFUL)
def test_in_doubt_it_is_theirs_with_one_line_that_says_what_was_found_and_how_to_choose(tmp_path, files):
    lay(tmp_path, *files)
    run = python("import importlib.util as u; u.find_spec('domainbed')" + SAY.replace("\n    ", "\n"), tmp_path)
    assert served(run) != "standin"
    assert run.stderr.count("\n") == 1
    assert str(tmp_path / "domainbed") in run.stderr
    assert "CIM_DG_STANDIN=1" in run.stderr
    run = python(SAY, tmp_path, CIM_DG_STANDIN="0")
    assert served(run) != "standin"
    assert run.stderr == ""
    assert served(python(SAY, tmp_path, CIM_DG_STANDIN="1")) == "standin"


@pytest.mark.parametrize("files", NOBODYS.values(), ids=NOBODYS)
def test_where_there_is_nothing_of_anybodys_the_standin_serves(tmp_path, files):
    lay(tmp_path, *files)
    run = python(SAY, tmp_path)
    assert (served(run), run.stderr) == ("standin", "")


def test_the_standin_can_be_forced_over_a_domainbed(other_domainbed):
    assert served(python(SAY, other_domainbed, CIM_DG_STANDIN="1")) == "standin"


@pytest.mark.parametrize("kind", ["package", "namespace, algorithms a package"])
def test_a_stray_folder_before_a_clone_hides_nothing(tmp_path, kind):
    lay(tmp_path / "clone", *THEIRS[kind])
    lay(tmp_path / "here", "domainbed/runs/job/done")
    code = SAY + "    import domainbed.algorithms as a; print(a.MARK)"
    where, mark = served(python(code, tmp_path / "here", tmp_path / "clone")).splitlines()
    assert str(tmp_path / "clone" / "domainbed") in where
    assert mark == "theirs"


EDITABLE = """
    import sys, importlib.util
    from importlib.machinery import ModuleSpec
    class Editable:  # what an editable install puts behind the path finder, in both of its forms
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != 'domainbed':
                return None
            if {package}:
                return importlib.util.spec_from_file_location(name, {folder!r} + '/__init__.py')
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [{folder!r}]
            return spec
    sys.meta_path.append(Editable)
"""


@pytest.mark.parametrize("kind", ["package", "namespace, algorithms a package"])
@pytest.mark.parametrize("stray", [True, False])
def test_an_editable_install_is_theirs_a_stray_folder_or_not(tmp_path, kind, stray):
    lay(tmp_path / "clone", *THEIRS[kind])
    lay(tmp_path / "here", "domainbed/" if stray else "other/")
    folder = str(tmp_path / "clone" / "domainbed")
    code = EDITABLE.format(package=kind == "package", folder=folder) + SAY
    assert served(python(code, tmp_path / "here")) == str([folder])


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("command", ["import domainbed.algorithms", "runpy"])
def test_a_domainbed_that_fails_to_import_shows_its_own_error(tmp_path, init, command):
    lay(tmp_path, "domainbed/scripts/train.py", "domainbed/networks.py")
    (tmp_path / "domainbed" / "algorithms.py").write_text("import no_such_dependency\n")
    (tmp_path / "domainbed" / "scripts" / "train.py").write_text("import domainbed.algorithms\n")
    if init:
        (tmp_path / "domainbed" / "__init__.py").write_text("from domainbed import algorithms\n")
    run_it = "import runpy; runpy.run_module('domainbed.scripts.train', run_name='__main__')"
    run = python(run_it if command == "runpy" else command, tmp_path)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'no_such_dependency'"


def test_what_cannot_be_read_is_theirs():
    class Unreadable:
        def __iter__(self):
            raise PermissionError("not yours")

    spec = ModuleSpec("domainbed", None, is_package=True)
    spec.submodule_search_locations = Unreadable()  # type: ignore[assignment]
    theirs, doubt = autoload.verdict(spec)
    assert theirs
    assert "not yours" in doubt


@pytest.mark.harness
@pytest.mark.parametrize("fork", ["SWAD", "MIRO", "DIWA"])
def test_a_fork_is_imported_as_it_is(tmp_path, fork):
    if f"{fork}_ROOT" not in os.environ:
        pytest.skip(f"needs {fork}_ROOT, a clone of that fork")
    clone = Path(os.environ[f"{fork}_ROOT"]).resolve()
    for run in (python(SAY, clone), python(SAY, tmp_path, clone)):
        assert served(run) == str([str(clone / "domainbed")])
        assert run.stderr == ""


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
