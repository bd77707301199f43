"""Stand-ins for SLURM's programs: each answers what a test wrote into a file, and notes how it was called."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """\
#!/bin/sh
cd "{folder}" || exit 9
echo "$*" >> {name}.calls
/bin/cat {name}.err >&2
/bin/cat {name}.out
exit "$(/bin/cat {name}.rc)"
"""


@dataclass
class Programs:
    """A folder, and the only one, on PATH."""

    folder: Path

    def say(self, name: str, out: str = "", err: str = "", rc: int = 0) -> None:
        """From now on, this program answers so."""
        for ending, text in (("out", out), ("err", err), ("rc", str(rc))):
            (self.folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
        program = self.folder / name
        program.write_text(PROGRAM.format(folder=self.folder, name=name), encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def calls(self, name: str) -> list[str]:
        """Its arguments at each call."""
        file = self.folder / f"{name}.calls"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
