"""Where a database's socket lives, and which file systems a database may live on."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from selector.errors import SelectorError, UsageError

_MAX_SOCKET_BYTES = 107
_SOCKET_NAME = "mongo.sock"
_MOUNTS = Path("/proc/self/mountinfo")
# SQLite's log and file locks can't be relied on over a network.
NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs",
    "wekafs",
}  # fmt: skip


def socket_path(database_file: Path) -> Path:
    """The socket of a database's server, in a folder of this user alone (made if needed).

    Raises
    ------
    SelectorError
        The folder belongs to somebody else, or every possible path is over the 107 bytes a socket's name may have.
    """
    name = hashlib.sha256(os.fsencode(database_file)).hexdigest()[:12]
    candidates = [Path(tempfile.gettempdir()) / f"selector-{os.getuid()}-{name}"]
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.access(session, os.W_OK | os.X_OK):
        candidates.insert(0, Path(session) / f"selector-{name}")
    for folder in candidates:
        if len(os.fsencode(folder / _SOCKET_NAME)) <= _MAX_SOCKET_BYTES:
            _make_private(folder)
            return folder / _SOCKET_NAME
    longest = candidates[-1] / _SOCKET_NAME
    raise SelectorError(f"{longest}: socket path longer than {_MAX_SOCKET_BYTES} bytes; set TMPDIR to a shorter folder")


def is_private(folder: Path) -> bool:
    """Whether `folder` exists, is ours, and closed to everybody else."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SelectorError(f"{folder}: cannot make the runtime folder ({error.strerror}); set TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SelectorError(f"{folder}: belongs to another user; remove it or set TMPDIR to another folder")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def check_location(database_file: Path) -> None:
    """Refuse a folder that is missing, not writable or on a network file system.

    Raises
    ------
    UsageError
        With the path, the reason and, for a network file system, a path that would do.
    """
    folder = database_file.parent
    if database_file.is_dir():
        raise UsageError(f"{database_file}: is a folder; name a file in it")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; create it or name another database file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: not writable; name a database file in another folder")
    if database_file.exists() and not os.access(database_file, os.R_OK | os.W_OK):
        raise UsageError(f"{database_file}: not readable and writable; change its permissions or name another file")
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        advice = f"use {_local_suggestion(database_file)}" if _local_suggestion(database_file) else "use a local disk"
        raise UsageError(
            f"{database_file}: on a network file system ({kind}), where a database can be damaged; {advice}"
        )


def file_system(folder: Path, mounts: Path | None = None) -> str:
    """The type of the file system that holds `folder`, e.g. "ext4" or "nfs4"; empty if the system does not tell."""
    try:
        lines = (mounts or _MOUNTS).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].encode(errors="surrogateescape").decode("unicode_escape"))
        # Of several mounts on one point the last one is seen.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def _local_suggestion(database_file: Path) -> Path | None:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    for folder in (Path(state) / "selector", Path("/var/tmp") / f"selector-{os.getuid()}"):
        if file_system(folder) not in NETWORK_FILE_SYSTEMS:
            return folder / database_file.name
    return None
