"""The launchers of one machine: what each place is given, warm processes, and jobs that a GPU has no memory for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from domainbed import command_launchers
from domainbed.scripts import sweep
from standin_samples import results_of
from worker_jobs import job

import cim_dg
from cim_dg.errors import RunError, UserError
from cim_dg.launchers import Job, launch, machine, worker
from cim_dg.launchers.job import Ending
from cim_dg.runtime import devices


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = [str(Path(cim_dg.__file__).parents[1]), str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.delenv("CIM_DG_JOBS", raising=False)
    monkeypatch.delenv("CIM_DG_JOBS_PER_GPU", raising=False)


def test_parallel_runs_every_job_with_this_python_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIM_DG_JOBS", "2")
    # Each waits for the other to have started: one after the other they would never end.
    meet = (
        "import sys, os, time\n"
        "open({mine!r}, 'w').write(sys.executable + ' ' + os.environ['OMP_NUM_THREADS'])\n"
        "while not os.path.exists({other!r}): time.sleep(0.02)"
    )
    launch("parallel", [job(tmp_path / f"job-{a}", meet.format(mine=a, other=b)) for a, b in (("a", "b"), ("b", "a"))])
    for name in "ab":
        python, threads = (tmp_path / name).read_text().rsplit(" ", 1)
        assert python == sys.executable
        assert int(threads) >= 1
    assert "2/2" in capfd.readouterr().err


def test_local_prints_what_the_jobs_print(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('a result'); print('a warning', file=sys.stderr)"
    with pytest.raises(RunError, match="exit code 3: what it printed is above"):
        launch("local", [job(tmp_path / "a", code), job(tmp_path / "b", "raise SystemExit(3)")])
    out, err = capfd.readouterr()
    assert "a result" in out and "a warning" in err


def test_multi_gpu_runs_one_job_at_a_time_on_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ["4", "7"])
    code = (
        "import os, time; gpu = os.environ['CUDA_VISIBLE_DEVICES']; os.mkdir(gpu); time.sleep(0.05); os.rmdir(gpu)\n"
        "open({name!r}, 'w').write(gpu)"
    )
    launch("multi_gpu", [job(tmp_path / f"job{number}", code.format(name=f"ran{number}")) for number in range(5)])
    assert {Path(f"ran{number}").read_text() for number in range(5)} == {"4", "7"}
    monkeypatch.setattr(devices, "gpus", lambda: [])
    with pytest.raises(UserError, match="needs a GPU"):
        launch("multi_gpu", [job(tmp_path / "a", "")])


@pytest.mark.slow
def test_results_are_those_of_the_local_launcher(monkeypatch: pytest.MonkeyPatch, two_cores: None) -> None:
    flags = "--datasets NuisanceDigits --algorithms ERM CIM_VIB --n_trials 1 --n_hparams 1 --single_test_envs --steps 4"
    flags += " --data_dir none --skip_confirmation"
    hparams = json.dumps({"batch_size": 8, "nuisance_digits": 20})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    actual = {}
    for launcher in ("pool", "local"):
        words = [*flags.split(), "--hparams", hparams, "--output_dir", launcher, "--command_launcher", launcher]
        assert sweep.main(["launch", *words]) == 0
        actual[launcher] = {job.name: results_of(job) for job in Path(launcher).iterdir()}
        provenance = [json.loads((job / "provenance.json").read_text()) for job in Path(launcher).iterdir()]
        assert {record["threads"] for record in provenance} == {1}
        assert all(record["command"][1:3] == ["-m", "domainbed.scripts.train"] for record in provenance)
    assert len(actual["pool"]) == 6
    assert actual["pool"] == actual["local"]


def test_jobs_without_an_entry_are_left_to_parallel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch("pool", [job(tmp_path / "a", "")])
    assert (tmp_path / "a" / "done").exists()
    assert "run in a new process each" in capsys.readouterr().err


def jobs_of(count: int, gib: float = 2.0, cores: int = 1) -> list[Job]:
    return [Job((), Path(f"/{number}"), True, gib=lambda: gib, cores=cores) for number in range(count)]


class TestPlaces:
    """What each process is given of the machine."""

    @pytest.fixture(autouse=True)
    def eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "cores", lambda: 8)
        monkeypatch.setattr(devices, "gpus", lambda: [])
        monkeypatch.setattr(machine, "_free_gib", lambda: 40.0)

    def test_threads_do_not_depend_on_how_many_jobs_are_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for count in (20, 8, 3, 1):
            assert self.places(count) == [{"OMP_NUM_THREADS": "1"}] * min(8, count)
        monkeypatch.setenv("CIM_DG_JOBS", "2")
        for count in (3, 1):
            assert self.places(count) == [{"OMP_NUM_THREADS": "4"}] * min(2, count)

    def test_jobs_that_need_more_cores(self) -> None:
        assert machine.places(jobs_of(20, cores=4), lambda most: most) == [{"OMP_NUM_THREADS": "4"}] * 2

    @pytest.mark.parametrize(("gib", "per_gpu"), [(2.0, 4), (16.0, 2), (15.0, 2), (23.0, 1), (100.0, 1)])
    def test_as_many_on_a_gpu_as_fit(self, gib: float, per_gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: ["3", "5"])
        assert [place["CUDA_VISIBLE_DEVICES"] for place in self.places(20, gib)] == ["3", "5"] * per_gpu
        monkeypatch.setattr(machine, "_free_gib", lambda: 1.0)
        assert len(self.places(20, gib)) == 2
        monkeypatch.setenv("CIM_DG_JOBS_PER_GPU", "3")
        assert len(self.places(20, gib)) == 6

    def test_more_jobs_than_gpus_go_round_the_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: ["3", "5"])
        monkeypatch.setenv("CIM_DG_JOBS", "5")
        places = machine.places(jobs_of(20), lambda most: 1)
        assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["3", "5", "3", "5", "3"]

    def test_wrong_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: ["3"])
        monkeypatch.setenv("CIM_DG_JOBS_PER_GPU", "0")
        with pytest.raises(UserError, match="CIM_DG_JOBS_PER_GPU is '0'"):
            self.places(1)

    def places(self, count: int, gib: float = 2.0) -> list[machine.Place]:
        jobs = jobs_of(count, gib)
        return machine.places(jobs, lambda most: machine._fitting(jobs, most))


def test_a_job_that_ran_out_of_memory_runs_again_alone_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ["3", "5"])
    monkeypatch.setenv("CIM_DG_JOBS_PER_GPU", "2")
    code = (
        "import os; first = not os.path.exists({tried!r}); open({tried!r}, 'a').write('x')\n"
        "if first or {always}: raise MemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')"
    )
    jobs = [
        *(job(tmp_path / f"good{number}", "") for number in range(4)),
        job(tmp_path / "large", code.format(tried="large.txt", always=False)),
        job(tmp_path / "larger", code.format(tried="larger.txt", always=True)),
    ]
    places = machine.places(jobs, lambda most: 2)
    assert len(places) == 4
    endings = machine.Machine(jobs, places, machine.Processes).run()
    assert "2 jobs ran out of GPU memory and run once more, alone" in capfd.readouterr().err
    assert [one.folder.name for one, ending in endings.items() if ending.failure(one)] == ["larger"]
    assert (Path("large.txt").read_text(), Path("larger.txt").read_text()) == ("xx", "xx")


def test_alone_there_is_nobody_beside_it_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    class Full:
        def __init__(self, place: machine.Place) -> None:
            self.gpu = place["CUDA_VISIBLE_DEVICES"]

        def run(self, job: Job) -> Ending:
            ran.append((job.folder.name, self.gpu))
            return Ending(1, "CUDA out of memory")

        def kill(self) -> None: ...

    jobs = jobs_of(6)
    machine.Machine(jobs, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "0101"], Full).run()
    assert sorted(name for name, _ in ran) == sorted(2 * [str(number) for number in range(6)])


def test_a_job_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    threads, folder, variables = torch.get_num_threads(), os.getcwd(), dict(os.environ)
    (tmp_path / "else").mkdir()
    with pytest.raises(ZeroDivisionError), worker.as_new_process(["python", "-m", "x"], str(tmp_path / "else")):
        assert sys.argv == ["-m", "x"]
        torch.set_num_threads(threads + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.environ["LEAKED"] = "1"
        del os.environ["PYTHONPATH"]
        _ = 1 / 0
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert os.getcwd() == folder
    assert dict(os.environ) == variables


@pytest.mark.slow
def test_a_warm_process_calls_any_entry_and_tells_how_it_failed(tmp_path: Path) -> None:
    """Of no harness: the worker imports what the job names."""
    (tmp_path / "entries.py").write_text(
        "import os, sys\n"
        "def main(arguments):\n"
        "    if arguments == ['exit']: sys.exit(3)\n"
        "    if arguments == ['raise']: raise ValueError('no such thing')\n"
        "    if arguments == ['say']: print('a reason', file=sys.stderr); return 2\n"
        "    open(arguments[0] + '/done', 'w').write(str(os.getpid()))\n"
        "    return 0\n"
    )
    warm = machine.WarmProcesses({"OMP_NUM_THREADS": "1"})
    said = {}
    for name in ("exit", "raise", "say"):
        failing = Job(("python", "x"), tmp_path / name, True, entry="entries:main", arguments=(name,))
        said[name] = warm.run(failing).failure(failing)
    assert said == {
        "exit": "exit code 3: nothing on stderr",
        "raise": "exit code 1: ValueError: no such thing",
        "say": "exit code 2: a reason",
    }
    pids = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        good = Job(("python", "x"), tmp_path / name, True, entry="entries:main", arguments=(str(tmp_path / name),))
        assert warm.run(good) == Ending(0)
        pids.add((tmp_path / name / "done").read_text())
    assert len(pids) == 1
    warm.kill()


def test_the_stand_ins_own_names_are_there() -> None:
    assert {"local", "dummy", "multi_gpu", "parallel", "pool", "ray", "slurm"} <= set(command_launchers.REGISTRY)
