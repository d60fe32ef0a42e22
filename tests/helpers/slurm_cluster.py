"""A real Slurm of one node on this machine, for as long as the tests run: munge, slurmctld and slurmd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from worker_jobs import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=100000
KillWait=1
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether Slurm's and munge's programs are here, and this user may start them."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Bring a cluster up whose files are in `folder`, whose path is short (it holds a socket)."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = [_free_port(), _free_port()]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=ports))
    os.environ["SLURM_CONF"] = str(config)
    files: dict[str, str | Path] = {
        "key-file": key,
        "socket": "munge.socket",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
    }
    files |= {"seed-file": "munge.seed"}
    try:
        subprocess.run(
            ["munged", "--force", *(f"--{flag}={folder / name}" for flag, name in files.items())], check=True
        )
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd"], check=True)
        until(lambda: "idle" in _said(["sinfo", "--noheader"]))
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], check=False)
        until(lambda: not _said(["squeue", "--noheader"]))
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        del os.environ["SLURM_CONF"]


def _said(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
