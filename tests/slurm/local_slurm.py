"""SLURM on this machine for a test: one node, a few slots, no systemd, everything in one folder, gone at the end."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
START_S = 20.0
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=2
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge={remembers_s}
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=16000 State=UNKNOWN
NodeName=elsewhere NodeAddr=127.0.0.1 Port=1 CPUs=1 State=DOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
PartitionName=short Nodes={host} MaxTime=2 State=UP
PartitionName=far Nodes={host},elsewhere MaxTime=1-0 State=UP
"""


class LocalSlurm:
    """munged, slurmctld and slurmd as children of this process; `environment` is what its commands need.

    Partitions: main (no limit), short (two minutes), far (with a node that is not this machine, and down).
    """

    def __init__(self, slots: int = 2, remembers_s: int = 300) -> None:
        # Short, for a socket's name; open to all, or munged refuses it.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._slots, self._remembers_s = slots, remembers_s
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def __enter__(self) -> LocalSlurm:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if len(self._daemons) == 3:
            self.run("scancel", "--full", "-u", getpass.getuser(), check=False)
            _wait(lambda: not self.run("squeue", "-h", check=False), 20.0)
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str, check: bool = True) -> str:
        """The standard output of one of SLURM's commands."""
        env = os.environ | self.environment
        done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=check)
        return done.stdout.strip()

    def _start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir(mode=0o700)
        (folder / "spool").mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        controller_port, node_port = _free_ports(2)
        values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder}
        ports = {"controller_port": controller_port, "node_port": node_port}
        sizes = {"slots": self._slots, "remembers_s": self._remembers_s}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values, **ports, **sizes), encoding="utf-8")
        munge_socket = f"{folder}/munge.socket"
        self._daemon(
            "munged", "-F", f"--key-file={key}", f"--socket={munge_socket}", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed", "--num-threads=2",
            ready=lambda: _succeeds("munge", "-n", "-S", munge_socket),
        )  # fmt: skip
        configuration = str(folder / "slurm.conf")
        self._daemon(
            "slurmctld", "-D", "-c", "-f", configuration,
            ready=lambda: "is UP" in self.run("scontrol", "ping", check=False),
        )  # fmt: skip
        self._daemon(
            "slurmd", "-D", "-c", "-f", configuration,
            ready=lambda: self.run("sinfo", "-h", "-p", "main", "-o", "%T", check=False) == "idle",
        )  # fmt: skip

    def _daemon(self, name: str, *arguments: str, ready: Callable[[], bool]) -> None:
        place = shutil.which(name, path=PATH)
        assert place is not None, f"{name} is not installed: make slurm"
        output = self.folder / f"{name}.out"
        with output.open("wb") as log:
            daemon = subprocess.Popen(
                [place, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=os.environ | self.environment, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)
        if not _wait(lambda: daemon.poll() is not None or ready(), START_S) or daemon.poll() is not None:
            raise RuntimeError(f"{name} does not start: {output.read_text(errors='replace')[-2000:]}")


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _wait(happens: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.05)
    return False
