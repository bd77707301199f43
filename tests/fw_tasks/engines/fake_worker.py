"""Stands in for gpaw_worker.py: same arguments, same files; ``material_id`` of the job says what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ENERGY_EV = np.linspace(0.0, 60.0, 601)
# One oscillator for each level, Kramers and Kronig fulfilled; 300 of the 676 eV^2 that eight electrons of LiF have.
OSCILLATOR = 300.0 / (8.0**2 - ENERGY_EV**2 - 1j * ENERGY_EV) * np.ones((3, 1))
IPA, RPA = 1.0 + OSCILLATOR, 1.0 + 0.8 * OSCILLATOR


def result(job: dict, path: Path, **changes: object) -> None:
    arrays = {"energy_ev": ENERGY_EV, "ipa_eps": IPA, "rpa_eps": RPA}
    arrays["ladder_eps"] = np.array([IPA, 1.0 + 0.9 * OSCILLATOR, RPA]).mean(axis=1)
    ladder = [{"cutoff_ev": 0.01, "n_g": 1}, {"cutoff_ev": 30.0, "n_g": 9}, {"cutoff_ev": 56.0, "n_g": 27}]
    meta = {"id": job["id"], "gap_ev": 4.0, "cpu_s": 1.5, "n_g": 27, "versions": {"gpaw": "0.0", "gpaw-data": "0.0"}}
    meta |= {"electrons": 8.0, "volume_ang3": 16.31, "ladder": ladder, "repairs": [], "changed_settings": {}}
    meta |= {k: v for k, v in changes.items() if k in meta}
    arrays |= {k: v for k, v in changes.items() if k in arrays}
    arrays = {k: v for k, v in arrays.items() if v is not None}
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)


def report(job: dict, **changes: object) -> int:
    record = {"id": job["id"], "error": "BadOutput", "message": "as asked"} | changes
    Path("error.json").write_text(json.dumps(record))
    return 1


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("child").write_text(str(child.pid))
    time.sleep(600)


def unexplained() -> int:
    print("first line\nlast words")
    return 3


def cut_short(job: dict, path: Path) -> None:
    result(job, path)
    path.write_bytes(path.read_bytes()[:-300])


def repaired(job: dict, path: Path) -> None:
    result(job, path, repairs=["Niggli-reduced cell"], changed_settings={"cell": "niggli"})


def full_disk() -> None:
    with open("/dev/full", "w") as f:  # noqa: PTH123
        f.write("no room")


def alloc() -> int:
    print("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.")
    return 1


def main() -> int | None:
    job, path = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    Path("pid").write_text(str(os.getpid()))
    wave = 1.0 + 1j * np.cos(np.linspace(0.0, 9.0, len(ENERGY_EV))) * np.ones((3, 1))
    threads, leads_group = float(os.environ["OMP_NUM_THREADS"]), int(os.getpgid(0) == os.getpid())
    what, _, name = job["material_id"].partition(":")
    behaviours = {
        "good": lambda: result(job, path),
        "environment": lambda: result(job, path, gap_ev=threads, n_g=leads_group),
        "sleep": lambda: time.sleep(600),
        "stubborn": stubborn,
        "signal": lambda: os.kill(os.getpid(), getattr(signal, name)),
        "error": lambda: report(job, error=name),
        "old error": lambda: report(job, id="another run", error="Metallic"),
        "unexplained": unexplained,
        "nothing": lambda: None,
        "garbage": lambda: path.write_bytes(b"PK\x03\x04 not an archive") and None,
        "cut short": lambda: cut_short(job, path),
        "other id": lambda: result(job, path, id="another run"),
        "not finite": lambda: result(job, path, rpa_eps=RPA * np.nan),
        "negative": lambda: result(job, path, rpa_eps=wave),
        "dark": lambda: result(job, path, ipa_eps=IPA.real + 0j),
        "wrong shape": lambda: result(job, path, rpa_eps=RPA[:2]),
        "short range": lambda: result(job, path, energy_ev=np.linspace(0.0, 19.0, len(ENERGY_EV))),
        "no rpa": lambda: result(job, path, rpa_eps=None),
        "no gap": lambda: result(job, path, gap_ev=None),
        "gap of 0": lambda: result(job, path, gap_ev=0.0),
        "too strong": lambda: result(job, path, electrons=2.0),
        "upside down": lambda: result(job, path, ipa_eps=RPA, rpa_eps=IPA),
        "acausal": lambda: result(job, path, rpa_eps=RPA - 0.5 * (RPA.real - 1.0)),
        "no ladder": lambda: result(job, path, ladder_eps=None),
        "repaired": lambda: repaired(job, path),
        "allocation": alloc,
        "full disk": full_disk,
    }
    return behaviours[what]()


if __name__ == "__main__":
    sys.exit(main())
