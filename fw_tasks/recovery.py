"""What calculations leave behind on disk: whose it is, that it is there, and how it is found again.

An attempt's folder holds ``job.json``, written before anything is computed, and in the end ``calculation.npz`` or
``failure.json``. A *notice*, a file named after the attempt in the campaign's folder ``returned``, says that it ended;
the step takes it away once the attempt is booked. So a result reaches the campaign whatever became of the database
meanwhile: notices are few, and read by every step; where the database is older than the folder, restored from a
backup or begun anew, all folders are looked through once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fw_tasks.engines.base import Calculation
from selector.config import CampaignConfig
from selector.dispatching import job_key
from selector.errors import SelectorError
from selector.protocols import Failure, Result, Returned
from selector.returned import refusal
from selector.store import Store

Owner = dict[str, Any]
RESULT, FAILURE, OWNER = "calculation.npz", "failure.json", "job.json"
UNREADABLE_RESULT = "BrokenResult"
UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)
"""What reading a file raises that is cut off, damaged, or something else."""


class FolderTaken(SelectorError):
    """An attempt's folder holds another attempt."""


# -- what a calculation writes beside its result -----------------------------------------------------------------------


@contextlib.contextmanager
def written_down(job: Mapping[str, Any], workdir: Path) -> Iterator[None]:
    """Write whose folder this is before anything is computed in it, and a notice at the end, however that comes.

    A result that cannot be read is put aside, so that it is computed again.

    Raises
    ------
    FolderTaken
        It is another attempt's.
    """
    owner = owner_of(workdir)
    if owner is None:
        write_json(workdir / OWNER, dict(job))
    elif owner["key"] != job["key"]:
        raise FolderTaken(f"{workdir} {is_of(owner)}; give each campaign a folder of its own")
    result = workdir / RESULT
    if result.exists() and isinstance(read(workdir), Failure):
        result.replace(result.with_name(f"{RESULT}.broken"))
    try:
        yield
    finally:
        if job.get("notices") and ((workdir / RESULT).exists() or (workdir / FAILURE).exists()):
            # A full disk must not turn a result into a failure.
            with contextlib.suppress(OSError):
                _notify(Path(job["notices"]), job["key"], workdir)


def earlier_result(job: Mapping[str, Any], workdir: Path) -> Path | None:
    """The folder of another attempt at the same level that has its result already; a new notice says so."""
    for other in sorted(workdir.parent.glob(f"{job['level']}-*")):
        owner = owner_of(other) if other != workdir else None
        if owner is None or any(owner.get(k) != job[k] for k in ("campaign", "material_id", "level", "engine")):
            continue
        if isinstance(read(other), Result):
            if job.get("notices"):
                _notify(Path(job["notices"]), owner["key"], other)
            return other
    return None


# -- what it left ------------------------------------------------------------------------------------------------------


def read(workdir: Path, key: str | None = None) -> Result | Failure | None:
    """What lies in an attempt's folder: its result, its failure (also: a file that cannot be read), or neither.

    ``key``: the attempt that it should be; what is another's is a failure of this one.
    """
    result, failure = workdir / RESULT, workdir / FAILURE
    try:
        if not result.exists() and not failure.exists():
            return None
        owner = owner_of(workdir)
        if key is not None and owner is not None and owner["key"] != key:
            return Failure("FolderTaken", f"{workdir} {is_of(owner)}; give each campaign its own folder", 0.0, False)
        if result.exists():
            return Result(Calculation.load(result))
        return Failure(**json.loads(failure.read_text(encoding="utf-8")))
    except UNREADABLE as e:
        broken = result if result.exists() else failure
        why = f"{broken} cannot be read ({type(e).__name__}): it is cut off or damaged"
        return Failure(UNREADABLE_RESULT, why, wall_s=None, retry=True)


def owner_of(workdir: Path) -> Owner | None:
    """Whose folder it is: the job's own words; None where nobody wrote that down, or nobody can read it."""
    try:
        owner = json.loads((workdir / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and isinstance(owner.get("key"), str) else None


def is_of(owner: Owner) -> str:
    """Whose an attempt's folder is, in words."""
    what = f"{owner.get('material_id')}, {owner.get('level')}, attempt {owner.get('attempt')}"
    return f"holds {what}, of campaign '{owner.get('campaign')}'"


# -- notices -----------------------------------------------------------------------------------------------------------


def returned(folder: Path, campaign: str, epoch: int) -> Iterator[Returned]:
    """What ended in the campaign's folder and was not acknowledged; all there is, where the memory is the older.

    ``epoch``: that of the step's lease. It only grows; one that the folder has seen already is a restored database's.
    """
    notices = folder / "returned"
    mark = notices / f"{campaign}.epoch"
    if epoch <= _seen(mark):
        search(folder, campaign)
    with contextlib.suppress(OSError):
        notices.mkdir(parents=True, exist_ok=True)
        _replace(mark, str(epoch))
    for notice in sorted(notices.glob("*.json")):
        workdir = folder / _text(notice)
        owner = owner_of(workdir) or _by_its_place(folder, campaign, workdir)
        if owner is None:
            acknowledge(folder, notice.stem)
        elif owner.get("campaign") == campaign:
            yield Returned(owner, str(workdir), lambda place=workdir: read(place))  # type: ignore[misc]


def acknowledge(folder: Path, key: str) -> None:
    """Take the notice of an attempt away: it is booked, or it was refused."""
    (folder / "returned" / f"{key}.json").unlink(missing_ok=True)


def search(folder: Path, campaign: str) -> None:
    """Give a notice of every attempt that left something in the campaign's folder."""
    for workdir in (folder / "calculations").glob("*/*/"):
        if (workdir / RESULT).exists() or (workdir / FAILURE).exists():
            owner = owner_of(workdir) or _by_its_place(folder, campaign, workdir)
            if owner is not None and owner.get("campaign") == campaign:
                _notify(folder / "returned", owner["key"], workdir)


def bring_home(place: Path, store: Store, config: CampaignConfig) -> list[str]:
    """Copy what a folder holds of this campaign, at any depth, to where its attempts belong; why the rest was not.

    What is there already stays as it is, but for a failure where a result was found.
    """
    refused = []
    for workdir in sorted({file.parent for name in (RESULT, FAILURE) for file in place.rglob(name)}):
        owner = owner_of(workdir) or _by_its_place(config.folder, config.campaign, workdir.resolve())
        if owner is None:
            refused.append(f"{workdir} does not say whose it is: it has no {OWNER}, or one that cannot be read")
            continue
        found = Returned(owner, str(workdir), lambda place=workdir: read(place))  # type: ignore[misc]
        outcome = found.read()
        why = refusal(store, found) or _unfit(owner, outcome)
        if why is not None:
            refused.append(why)
            continue
        home = config.folder / "calculations" / owner["material_id"] / f"{owner['level']}-{owner['attempt']}"
        if workdir.resolve() != home.resolve() and not isinstance(read(home, owner["key"]), Result):
            home.mkdir(parents=True, exist_ok=True)
            for name in (OWNER, RESULT if isinstance(outcome, Result) else FAILURE):
                _copy(workdir / name, home / name)
    return refused


def _unfit(owner: Owner, outcome: Result | Failure | None) -> str | None:
    material_id = str(owner["material_id"])
    if material_id in ("", ".", "..") or Path(material_id).name != material_id:
        return f"a {OWNER} names the material {material_id!r}, which is no name of a folder"
    if isinstance(outcome, Failure) and outcome.reason == UNREADABLE_RESULT:
        return outcome.message
    return None


def _copy(file: Path, to: Path) -> None:
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    shutil.copyfile(file, part)
    part.replace(to)


def _by_its_place(folder: Path, campaign: str, workdir: Path) -> Owner | None:
    """Whose folder it is by its name; so it is with those of the first release, which have no ``job.json``."""
    level, _, attempt = workdir.name.partition("-")
    if level not in ("ipa", "rpa") or not attempt.isdigit() or workdir.parent.parent != folder / "calculations":
        return None
    about = {"campaign": campaign, "material_id": workdir.parent.name, "level": level, "attempt": int(attempt)}
    return about | {"key": job_key(*about.values())}  # type: ignore[arg-type]


def _notify(notices: Path, key: str, workdir: Path) -> None:
    """The place is relative to the campaign's folder, which may be moved."""
    notices.mkdir(parents=True, exist_ok=True)
    _replace(notices / f"{key}.json", json.dumps(os.path.relpath(workdir, notices.parent)))


def _text(notice: Path) -> str:
    try:
        return str(json.loads(notice.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""


def _seen(mark: Path) -> int:
    try:
        return int(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, which is whole or absent."""
    _replace(path, json.dumps(data, default=str))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
