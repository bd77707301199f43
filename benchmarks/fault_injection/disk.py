"""A small file system of its own for a campaign's files, which can be filled and freed. Needs the right to mount."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from pathlib import Path
from types import TracebackType

BLOCK = bytes(65536)


class SmallDisk:
    """A tmpfs of so many MB, mounted on a folder for as long as the context lasts.

    Raises
    ------
    PermissionError
        This user may not mount.
    """

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        self._size_mb = size_mb
        self._ballast = folder / "ballast"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["-o", f"size={self._size_mb}m", "tmpfs", str(self.folder)]
        done = subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(
                f"{self.folder}: no tmpfs can be mounted there ({done.stderr.strip()}); run it as root"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave no byte."""
        with self._ballast.open("ab", buffering=0) as f:
            for block in (BLOCK, BLOCK[:4096], BLOCK[:1]):
                try:
                    while f.write(block):
                        pass
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Take away what `fill` wrote."""
        with contextlib.suppress(FileNotFoundError):
            self._ballast.unlink()
