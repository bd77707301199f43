"""How the programs are called on this site, and what their ends mean."""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fw_tasks.engines.base import OutOfMemory, ProgramMissing, TimedOut
from fw_tasks.engines.worker_process import refuse_full_disk, run_worker
from selector.errors import UsageError

NOT_FOUND = 127
KILLED = 128 + 9
LAUNCHER_LOST = re.compile(
    r"command not found|failed to execute|unable to launch the specified application|No such file or directory.*mpi"
)
RANK_KILLED = re.compile(r"on signal 9 \(Killed\)|KILLED BY SIGNAL: 9|oom-kill|Out Of Memory")
CHECK_TIME_S = 60.0


@dataclass(frozen=True)
class Usage:
    """Wall seconds, and CPU seconds of the processes on this machine."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


@dataclass(frozen=True)
class Programs:
    """Command lines as one would type them, and what has to come before each.

    Attributes
    ----------
    pw, p2y, yambo : commands, e.g. ``mpirun -np 8 pw.x -nk 4``
    prefix : shell commands before each, e.g. ``module load qe/7.2 yambo/5.2``
    processes : CPU seconds are wall seconds times this; where None, what the processes on this machine used
    """

    pw: str = "pw.x"
    p2y: str = "p2y"
    yambo: str = "yambo"
    prefix: str = ""
    processes: int | None = None

    def command(self, program: str, arguments: Sequence[str] = ()) -> list[str]:
        """The words to run ``program`` ("pw", "p2y" or "yambo") with ``arguments``."""
        return self._in_shell([*self._words(program), *arguments])

    def check(self, names: Sequence[str] = ("pw", "p2y", "yambo")) -> None:
        """Look for every program, behind the prefix where there is one.

        Raises
        ------
        ProgramMissing, UsageError
        """
        for program in names:
            words = self._words(program)
            # The launcher, and the program itself where it stands behind one.
            wanted = [words[0], *(w for w in words[1:] if Path(w).name in ("pw.x", "p2y", "yambo"))]
            for word in wanted:
                if not self._found(word):
                    behind = f" after {self.prefix!r}" if self.prefix else ""
                    raise ProgramMissing(
                        f"{word} is not on PATH{behind}: install it, or set the engine's option {program} "
                        "(and prefix, for module loads)"
                    )

    def run(
        self, program: str, arguments: Sequence[str], folder: Path, log: str, time_limit_s: float | None
    ) -> tuple[str, Usage]:
        """Run a program in ``folder`` to its end; what it printed, and what it used.

        The exit status says little and is not returned. The whole process group ends at the time limit, and where the
        system has ``setpriv`` also when this process dies.

        Raises
        ------
        TimedOut, OutOfMemory, ProgramMissing, BadOutput
        SelectorError
            The folder's file system is full.
        """
        if time_limit_s is not None and time_limit_s <= 0.0:
            raise TimedOut(f"no time is left for {program}")
        start, cpu_before = time.monotonic(), _cpu_s()
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        command = self.command(program, arguments)
        try:
            status = run_worker([*guard, *command], folder, folder / log, time_limit_s)
        except FileNotFoundError as error:
            raise ProgramMissing(f"{command[0]} is not on PATH; set the engine's option {program}") from error
        wall_s = time.monotonic() - start
        cpu_s = _cpu_s() - cpu_before if self.processes is None else wall_s * self.processes
        said = (folder / log).read_text(encoding="utf-8", errors="replace")
        if status == NOT_FOUND or (status != 0 and LAUNCHER_LOST.search(said)):
            raise ProgramMissing(f"{shlex.join(command)} cannot be run; see {folder / log}", wall_s)
        if status == KILLED or (status != 0 and RANK_KILLED.search(said)):
            raise OutOfMemory(f"{program} was killed, most likely for its memory; see {folder / log}", wall_s)
        refuse_full_disk(folder, said, status, "set the engine's option scratch")
        return said, Usage(wall_s, cpu_s)

    def _words(self, program: str) -> list[str]:
        line = {"pw": self.pw, "p2y": self.p2y, "yambo": self.yambo}[program]
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"engine option {program}: {line!r} is no command line ({error})") from error
        if not words:
            raise UsageError(f"engine option {program}: empty; give the command, e.g. 'mpirun -np 8 {program}'")
        return words

    def _found(self, word: str) -> bool:
        if not self.prefix:
            return shutil.which(word) is not None
        try:
            found = subprocess.run(
                self._in_shell(["command", "-v", word], replace=False),
                check=False,
                capture_output=True,
                timeout=CHECK_TIME_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProgramMissing(f"the prefix {self.prefix!r} cannot be run ({error})") from error
        return found.returncode == 0

    def _in_shell(self, words: list[str], *, replace: bool = True) -> list[str]:
        """The words behind the prefix, in a login shell so that `module` is known; the shell becomes the program."""
        if not self.prefix:
            return words
        return ["bash", "-lc", f'{self.prefix} && {"exec " if replace else ""}"$@"', "bash", *words]


def _cpu_s() -> float:
    """CPU seconds of the children that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
