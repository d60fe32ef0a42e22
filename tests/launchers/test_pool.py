"""The launcher `pool`: the same results as one process per job, and what it makes of its settings."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from domainbed.scripts import sweep
from standin_samples import results_of

import cim_dg
from cim_dg.errors import UserError
from cim_dg.launchers import jobs, pool, pool_worker
from cim_dg.launchers import parallel as launchers
from cim_dg.runtime import devices

TRAIN = "python -m domainbed.scripts.train"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cim_dg.__file__).parents[1]))
    monkeypatch.delenv("CIM_DG_JOBS", raising=False)
    monkeypatch.delenv("CIM_DG_JOBS_PER_GPU", raising=False)


@pytest.mark.slow
def test_results_are_those_of_the_local_launcher(monkeypatch: pytest.MonkeyPatch, two_cores: None) -> None:
    flags = "--datasets NuisanceDigits --algorithms ERM CIM_VIB --n_trials 1 --n_hparams 1 --single_test_envs --steps 4"
    flags += " --data_dir none --skip_confirmation"
    hparams = json.dumps({"batch_size": 8, "nuisance_digits": 20})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = {}
    for launcher in ("pool", "local"):
        words = [*flags.split(), "--hparams", hparams, "--output_dir", launcher, "--command_launcher", launcher]
        assert sweep.main(["launch", *words]) == 0
        found[launcher] = {job.name: results_of(job) for job in Path(launcher).iterdir()}
        provenance = [json.loads((job / "provenance.json").read_text()) for job in Path(launcher).iterdir()]
        assert {one["threads"] for one in provenance} == {1}
        assert all(one["command"][1:3] == ["-m", "domainbed.scripts.train"] for one in provenance)
    assert len(found["pool"]) == 6
    assert found["pool"] == found["local"]


def test_other_commands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("sh -c x", "python -m domainbed.scripts.sweep --output_dir x", f"{TRAIN} --steps 1"):
        with pytest.raises(UserError, match=r"pool runs commands that begin with .* alone"):
            pool.pool_launcher([command])


def test_a_real_domainbed_is_left_to_parallel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(jobs, "is_standin", lambda: False)
    monkeypatch.setattr(launchers, "parallel", ran.extend)
    pool.pool_launcher([TRAIN])
    assert ran == [TRAIN]
    assert "this is a real DomainBed: parallel it is" in capsys.readouterr().err


def commands(dataset: str, count: int) -> list[str]:
    return [f"{TRAIN} --dataset {dataset} --output_dir {number}" for number in range(count)]


class TestPlaces:
    """What each process is given of the machine."""

    @pytest.fixture(autouse=True)
    def eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "cores", lambda: 8)
        monkeypatch.setattr(devices, "gpus", lambda: [])
        monkeypatch.setattr(pool, "_free_gib", lambda: 40.0)

    def test_a_thread_for_each_of_many(self) -> None:
        assert pool._places(commands("ColoredMNIST", 20)) == [{"OMP_NUM_THREADS": "1"}] * 8

    def test_few_share_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pool._places(commands("ColoredMNIST", 3)) == [{"OMP_NUM_THREADS": "2"}] * 3
        monkeypatch.setenv("CIM_DG_JOBS", "2")
        assert pool._places(commands("ColoredMNIST", 3)) == [{"OMP_NUM_THREADS": "4"}] * 2

    @pytest.mark.parametrize(("dataset", "per_gpu"), [("ColoredMNIST", 4), ("VLCS", 2), ("NuisanceDigits", 4)])
    def test_as_many_on_a_gpu_as_fit(self, dataset: str, per_gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: ["3", "5"])
        places = pool._places(commands(dataset, 20))
        assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["3", "5"] * per_gpu
        monkeypatch.setattr(pool, "_free_gib", lambda: 1.0)
        assert len(pool._places(commands(dataset, 20))) == 2
        monkeypatch.setenv("CIM_DG_JOBS_PER_GPU", "3")
        assert len(pool._places(commands(dataset, 20))) == 6

    def test_wrong_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CIM_DG_JOBS_PER_GPU", "0")
        with pytest.raises(UserError, match="CIM_DG_JOBS_PER_GPU is '0'"):
            pool._places(commands("VLCS", 1))


def test_a_job_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    threads, folder, variables = torch.get_num_threads(), os.getcwd(), dict(os.environ)
    (tmp_path / "else").mkdir()
    with pytest.raises(ZeroDivisionError), pool_worker._as_a_new_process(shlex.split("--steps 1")):
        torch.set_num_threads(threads + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.chdir("else")
        os.environ["LEAKED"] = "1"
        del os.environ["PYTHONPATH"]
        _ = 1 / 0
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert os.getcwd() == folder
    assert dict(os.environ) == variables
