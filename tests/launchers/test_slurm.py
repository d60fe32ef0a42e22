"""The launcher `slurm`: what it asks of Slurm, by commands of that name that note it down, and real jobs run here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from worker_jobs import job, until

from cim_dg.domainbed import launchers
from cim_dg.errors import RunError, UserError
from cim_dg.launchers import Job, launch
from cim_dg.launchers.notes import queued_in_slurm

SBATCH = """#!/bin/sh
echo x >> {folder}/count
cp "$1" {folder}/script$(wc -l < {folder}/count).sh
echo "Submitted batch job 4$(wc -l < {folder}/count)"
"""


@pytest.fixture
def a_cluster(tmp_path, monkeypatch):
    """A folder first on PATH with commands of Slurm: sbatch keeps the scripts there, squeue tells what `queue` says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("srun", "#!/bin/sh\n"),
        ("sbatch", SBATCH.format(folder=folder)),
        ("squeue", f"#!/bin/sh\ncat {folder}/queue\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CIM_DG_SLURM_CLUSTER", raising=False)
    return folder


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit")


def jobs_in(folder: Path, count: int) -> list[Job]:
    folder.mkdir()
    return [
        job(folder / f"job{number}", f"open({str(folder / f'ran{number}')!r}, 'a').write('x')")
        for number in range(count)
    ]


def test_without_submitit_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"^the launcher slurm needs submitit: pip install 'cim-dg\[slurm\]'$"):
        launchers.launcher("slurm")([f"python -m domainbed.scripts.train --output_dir {tmp_path / 'a'}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("submitit")
def test_without_slurm_it_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="there is no srun here"):
        launch("slurm", jobs_in(tmp_path / "sweep", 1))


@pytest.mark.usefixtures("submitit")
def test_arrays_with_what_was_asked_for(tmp_path, a_cluster, monkeypatch, capsys):
    asked = {"slurm_partition": "gpu", "timeout_min": 90, "mem_gb": 20, "slurm_array_parallelism": 2}
    monkeypatch.setenv("CIM_DG_SLURM", json.dumps(asked))
    monkeypatch.setenv("CIM_DG_SLURM_ARRAY", "3")
    launch("slurm", jobs_in(tmp_path / "sweep", 5))
    first, second = ((a_cluster / f"script{number}.sh").read_text().splitlines() for number in (1, 2))
    for line in ("--partition=gpu", "--time=90", "--mem=20GB", "--gpus-per-node=1", "--cpus-per-task=8"):
        assert f"#SBATCH {line}" in first
    assert "#SBATCH --array=0-2%2" in first and "#SBATCH --array=0-1%2" in second
    noted = (tmp_path / "sweep" / ".cim-dg" / "slurm.txt").read_text().splitlines()
    assert noted == ["41_0 job0", "41_1 job1", "41_2 job2", "42_0 job3", "42_1 job4"]
    assert f"cim-dg status {tmp_path / 'sweep'}" in capsys.readouterr().out


@pytest.mark.usefixtures("submitit")
def test_what_is_queued_is_not_submitted_again(tmp_path, a_cluster, capsys):
    jobs = jobs_in(tmp_path / "sweep", 3)
    launch("slurm", jobs)
    (a_cluster / "queue").write_text("77\n41_1\n41_2\n")
    assert queued_in_slurm(tmp_path / "sweep") == {"job1", "job2"}
    launch("slurm", jobs)
    assert "2 jobs are in Slurm's queue already" in capsys.readouterr().out
    assert (tmp_path / "sweep" / ".cim-dg" / "slurm.txt").read_text().splitlines()[3:] == ["42 job0"]


@pytest.mark.usefixtures("submitit", "a_cluster")
@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("CIM_DG_SLURM", "a day", "CIM_DG_SLURM is 'a day'; accepted is names with values"),
        ("CIM_DG_SLURM", "{", "CIM_DG_SLURM is '{'; accepted is names with values"),
        ("CIM_DG_SLURM", "{slurm_partitoin: gpu}", "Unknown argument 'partitoin'.*partition"),
        ("CIM_DG_SLURM", "{timeout_min: long}", "timeout_min"),
        ("CIM_DG_SLURM_CLUSTER", "pbs", "CIM_DG_SLURM_CLUSTER is 'pbs'; accepted is slurm or local"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, monkeypatch, variable, value, complaint):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=complaint):
        launch("slurm", jobs_in(tmp_path / "sweep", 1))


@pytest.mark.usefixtures("submitit")
def test_what_sbatch_says_is_passed_on(tmp_path, a_cluster):
    (a_cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n")
    with pytest.raises(UserError, match="invalid partition specified: gpu"):
        launch("slurm", jobs_in(tmp_path / "sweep", 2))


@pytest.mark.usefixtures("submitit")
def test_a_variant_sweep_launched_again_submits_nothing_again(tmp_path, a_cluster, capsys):
    """Its jobs lie in several folders, and DomainBed shuffles them."""
    (tmp_path / "sweep").mkdir()
    jobs = [*jobs_in(tmp_path / "sweep" / "A", 2), *jobs_in(tmp_path / "sweep" / "B", 2)]
    launch("slurm", jobs)
    (a_cluster / "queue").write_text("".join(f"41_{number}\n" for number in range(4)))
    launch("slurm", jobs[::-1])
    assert "4 jobs are in Slurm's queue already" in capsys.readouterr().out
    assert (a_cluster / "count").read_text() == "x\n"
    assert (tmp_path / "sweep" / "submitit").is_dir()


@pytest.mark.usefixtures("submitit")
def test_several_jobs_in_a_task(tmp_path, a_cluster, monkeypatch):
    monkeypatch.setenv("CIM_DG_SLURM_JOBS", "2")
    launch("slurm", jobs_in(tmp_path / "sweep", 5))
    assert "#SBATCH --array=0-2%" in (a_cluster / "script1.sh").read_text()
    noted = (tmp_path / "sweep" / ".cim-dg" / "slurm.txt").read_text().splitlines()
    assert noted == ["41_0 job0", "41_0 job1", "41_1 job2", "41_1 job3", "41_2 job4"]


@pytest.mark.usefixtures("submitit")
def test_a_limit_that_is_met_later_keeps_what_is_queued(tmp_path, a_cluster, monkeypatch):
    monkeypatch.setenv("CIM_DG_SLURM_ARRAY", "2")
    limit = f"[ $(wc -l < {a_cluster}/count) = 2 ] && echo 'job submit limit reached' >&2 && exit 1\n"
    (a_cluster / "sbatch").write_text(SBATCH.format(folder=a_cluster).replace("#!/bin/sh\n", f"#!/bin/sh\n{limit}"))
    (a_cluster / "count").touch()
    (a_cluster / "queue").write_text("".join(f"{array}_{task}\n" for array in (41, 42) for task in (0, 1)))
    commands = [f"python -m domainbed.scripts.train --output_dir {tmp_path / f'job{number}'}" for number in range(6)]
    for number in range(6):
        (tmp_path / f"job{number}").mkdir()
    with pytest.raises(RunError, match=r"Slurm has taken 4 of 6 jobs and refuses more; .*: .*submit limit reached"):
        launchers.launcher("slurm")(commands)
    assert sorted(path.name for path in tmp_path.glob("job*")) == [f"job{number}" for number in range(4)]


@pytest.mark.usefixtures("submitit")
def test_old_files_of_submitit_are_removed_but_for_what_is_queued(tmp_path, a_cluster):
    folder = tmp_path / "sweep" / "submitit"
    jobs = jobs_in(tmp_path / "sweep", 1)
    folder.mkdir()
    for name in ("39_0_submitted.pkl", "40_0_submitted.pkl", "submission_file_1.sh", "38_0_0_log.out"):
        (folder / name).touch()
    for name in ("39_0_submitted.pkl", "40_0_submitted.pkl", "submission_file_1.sh"):
        os.utime(folder / name, (1000, 1000))
    (a_cluster / "queue").write_text("40_0\n")
    launch("slurm", jobs)
    assert {"40_0_submitted.pkl", "38_0_0_log.out"} <= {path.name for path in folder.iterdir()}
    assert not {"39_0_submitted.pkl", "submission_file_1.sh"} & {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("submitit")
def test_a_job_runs_fails_and_is_queued_again_when_preempted(tmp_path, monkeypatch):
    """By submitit's local executor. It sends the very signal that Slurm sends before it takes a node away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIM_DG_SLURM_CLUSTER", "local")
    preempt = "import os, signal, time; os.kill(os.getppid(), signal.SIGUSR2); time.sleep(30)"
    once = f"import os; again = os.path.exists('tried'); open('tried', 'w')\nif not again: {preempt}\n"
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    launch(
        "slurm",
        [
            job(sweep / "good", "open('good', 'w')"),
            job(sweep / "bad", "raise ValueError('no such thing')"),
            job(sweep / "preempted", f"{once}open('second' if again else 'ghost', 'w')"),
        ],
    )
    logs = sweep / "submitit"
    until(lambda: len(list(logs.glob("*_result.pkl"))) == 3)
    assert all(Path(name).exists() for name in ("good", "second")) and not Path("ghost").exists()
    ids = {name: number for number, name in map(str.split, (sweep / ".cim-dg" / "slurm.txt").read_text().splitlines())}
    assert "exit code 1: ValueError: no such thing" in (logs / f"{ids['bad']}_0_log.err").read_text()
    assert "Requeued job" in (logs / f"{ids['preempted']}_0_log.out").read_text()


@pytest.mark.slow
@pytest.mark.harness
@pytest.mark.usefixtures("submitit")
def test_a_sweep_of_the_real_domainbed(real, tmp_path):
    sweep = tmp_path / "sweep"
    flags = "--algorithms CIM --datasets NuisanceDigits --n_trials 1 --n_hparams 1 --steps 2 --single_test_envs"
    flags += f" --data_dir none --output_dir {sweep} --command_launcher slurm --skip_confirmation --hparams"
    hparams = '{"batch_size": 8, "nuisance_digits": 50}'
    said = real.script("sweep", "launch", *flags.split(), hparams, CIM_DG_SLURM_CLUSTER="local")
    assert "Submitted 3 jobs" in said
    until(lambda: len(list(sweep.glob("submitit/*_result.pkl"))) == 3, seconds=300)
    assert len(list(sweep.glob("*/done"))) == 3
    assert "Total records: 6" in real.script("collect_results", "--input_dir", str(sweep))
