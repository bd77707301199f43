"""Stands in for pw.x, p2y and yambo: looks at its input and puts recorded output in place.

``python replayer.py RECORDINGS JOURNAL MISBEHAVIOUR PROGRAM ARGUMENTS...``; what was run is added to the journal, one
line a run. MISBEHAVIOUR is ``-`` or ``stage=case,case``: what the first, second ... run of a stage leaves behind, the
last one time and again if it ends in ``+``; empty for a good one. A case is the name of a recorded failure, or one of
SPECIAL. Nothing is put in place that was not recorded for this very input.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from input_fields import blocks, fields

RECORDINGS, JOURNAL, MISBEHAVIOUR = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def material(pw_input: str) -> str:
    species = pw_input[pw_input.index("ATOMIC_SPECIES") :].split("\n")[1:]
    names = []
    for line in species:
        if not line.startswith("  "):
            break
        names.append(line.split()[0])
    return {"Si": "Si", "F Li": "LiF"}[" ".join(sorted(names))]


def pw(arguments: list[str]) -> int:
    text = Path(arguments[arguments.index("-in") + 1]).read_text()
    asked = fields(text)
    stage = str(asked["kind"]) if asked["kind"] == "scf" or isinstance(asked["k"], list) else "bands"
    case = enter(stage)
    if case is not None:
        return misbehave(stage, case)
    name = material(text)
    save = Path(re.search(r"outdir = '(.*?)'", text)[1]) / (re.search(r"prefix = '(.*?)'", text)[1] + ".save")
    if stage != "scf" and not (save / "charge-density.dat").exists():
        print("replayer: no charge density")
        return 1
    with zipfile.ZipFile(RECORDINGS / f"{name}.zip") as recorded:
        for member in recorded.namelist():
            if Path(member).name.startswith("pw_") and member.endswith(".in"):
                was = fields(recorded.read(member).decode())
                if was == asked:
                    sys.stdout.write(recorded.read(member.removesuffix(".in") + ".out").decode())
                    save.mkdir(parents=True, exist_ok=True)
                    (save / "charge-density.dat").write_text("density")
                    (save / "data-file-schema.xml").write_text(name)
                    (save / "wfc1.dat").write_text("wave functions")
                    return 0
    print(f"replayer: nothing recorded for {name} {asked['kind']} {asked['ecut']} Ry {asked['nbnd']} bands")
    return 3


def p2y(arguments: list[str]) -> int:
    case = enter("p2y")
    if case is not None:
        return misbehave("p2y", case)
    name = Path("data-file-schema.xml").read_text()
    target = Path(arguments[arguments.index("-O") + 1])
    (target / "SAVE").mkdir()
    (target / "SAVE" / "ns.db1").write_text(name)
    with zipfile.ZipFile(RECORDINGS / f"{name}.zip") as recorded:
        (target / "l_p2y").write_bytes(recorded.read(f"{name}/l_p2y"))
    return 0


def yambo(arguments: list[str]) -> int:
    job = arguments[arguments.index("-J") + 1] if arguments else None
    case = enter("response" if job else "setup")
    if case is not None:
        return misbehave("response" if job else "setup", case, job)
    name = (Path("SAVE") / "ns.db1").read_text()
    with zipfile.ZipFile(RECORDINGS / f"{name}.zip") as recorded:
        if job is None:
            for report in ("r_setup", "l_setup"):
                Path(report).write_bytes(recorded.read(f"{name}/{report}"))
            return 0
        asked = blocks(Path(f"{job}.in").read_text())
        was = blocks(recorded.read(f"{name}/{job}.in").decode())
        if asked != was:
            print(f"replayer: {job} was recorded with {was}, not {asked}")
            return 3
        for member in recorded.namelist():
            if re.fullmatch(rf"[orl]-{job}[._].*", Path(member).name):
                Path(Path(member).name).write_bytes(recorded.read(member))
        Path(job).mkdir()
        (Path(job) / "ndb.dipoles").write_text("dipoles")
    return 0


def enter(stage: str) -> str | None:
    """Note the run down; how it misbehaves, or None."""
    earlier = JOURNAL.read_text().splitlines().count(stage) if JOURNAL.exists() else 0
    with JOURNAL.open("a") as journal:
        journal.write(stage + "\n")
    where, _, what = MISBEHAVIOUR.partition("=")
    cases = what.split(",")
    if where != stage or (earlier >= len(cases) and not cases[-1].endswith("+")):
        return None
    return cases[min(earlier, len(cases) - 1)].rstrip("+") or None


def misbehave(stage: str, case: str, job: str | None = None) -> int:
    if case in SPECIAL:
        return SPECIAL[case]()
    with zipfile.ZipFile(RECORDINGS / "failures.zip") as recorded:
        members = {Path(m).name: recorded.read(m) for m in recorded.namelist() if Path(m).parent.name == case}
    for name, content in members.items():
        if job is not None and re.match(r"[orl]-RPA[._]", name):
            Path(name.replace("-RPA", f"-{job}", 1)).write_bytes(content)
        elif job is None and name in ("l_setup", "r_setup", "l_p2y", "CRASH"):
            Path(name).write_bytes(content)
        elif stage in ("scf", "nscf", "bands") and name.endswith(f"_{'scf' if stage == 'scf' else 'nscf'}.out"):
            sys.stdout.write(content.decode())
            Path("out/crystal.save").mkdir(parents=True, exist_ok=True)
    status = [content for name, content in members.items() if name.endswith(".rc")]
    return int(status[-1]) if status else 1


def half_written() -> int:
    """As far as a killed run gets, and then it is killed."""
    Path("out/crystal.save").mkdir(parents=True, exist_ok=True)
    Path("out/crystal.save/charge-density.dat").write_text("half")
    print("     Program PWSCF v.6.7MaX starts", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def sleep() -> int:
    Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
    return 0


def full_disk() -> int:
    print("forrtl: severe (38): error during write, No space left on device")
    return 0


def silent() -> int:
    return 0


SPECIAL = {"killed": half_written, "sleep": sleep, "full disk": full_disk, "silent": silent}

if __name__ == "__main__":
    sys.exit({"as-pw": pw, "as-p2y": p2y, "as-yambo": yambo}[sys.argv[4]](sys.argv[5:]))
