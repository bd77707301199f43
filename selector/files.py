"""Files that are whole or absent, and folders that can be written to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from selector.errors import UsageError


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text; the file is either whole or as it was before.

    Raises
    ------
    UsageError
        The folder cannot be made or written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UsageError(f"{path} cannot be written ({e.strerror}): choose another folder") from e


def make_writable(folder: Path) -> None:
    """Make a folder if it is not there.

    Raises
    ------
    UsageError
        It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise UsageError(f"{folder} cannot be written to ({e.strerror}): choose another folder") from None
