"""The engine among killed programs, full disks, other runs, and what earlier runs left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from pymatgen.core import Structure

from fw_tasks.engines import get_engine
from fw_tasks.engines.base import BadOutput, MissingDataset, OddElectrons, OutOfMemory, ProgramMissing, TimedOut
from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.qe_yambo import QEYamboEngine
from fw_tasks.engines.qe_yambo.commands import Programs
from selector.errors import SelectorError, UsageError

BOTH = ("ipa", "rpa")
SC_AT_2000 = 0.906739
SCF = "scf_e60_k6x6x6"
Engines = Callable[..., QEYamboEngine]
Journal = Callable[[], list[str]]


@pytest.fixture
def si(crystals: dict[str, Structure]) -> Structure:
    return crystals["Si"]


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process has ended (a zombie has), waiting a little for it."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def sleeper(folder: Path, within_s: float = 60.0) -> int:
    """The process id of a program that sleeps somewhere below ``folder``."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for path in folder.glob("*.part-*/pid"):
            if path.read_text():
                return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError("no program went to sleep")


def test_before_anything_runs(replayed: Engines, si: Structure, journal: Journal, tmp_path: Path) -> None:
    aluminium = Structure([[0, 2, 2], [2, 0, 2], [2, 2, 0]], ["Al"], [[0, 0, 0]])
    zinc_sulfide = Structure([[0, 2.7, 2.7], [2.7, 0, 2.7], [2.7, 2.7, 0]], ["Zn", "S"], [[0] * 3, [0.25] * 3])
    with pytest.raises(OddElectrons):
        replayed().compute("Al", aluminium, BOTH, tmp_path / "run", 60.0)
    with pytest.raises(MissingDataset, match="for S "):
        replayed().compute("ZnS", zinc_sulfide, BOTH, tmp_path / "run", 60.0)
    with pytest.raises(MissingDataset, match="option pseudo_dir"):
        QEYamboEngine().compute("Si", si, BOTH, tmp_path / "run", 60.0)
    with pytest.raises(ProgramMissing, match=r"no-such-pw is not on PATH.*option pw"):
        replayed(pw="no-such-pw").compute("Si", si, BOTH, tmp_path / "run", 60.0)
    with pytest.raises(ProgramMissing, match=r"nowhere/pw\.x is not on PATH"):
        replayed(pw="env nowhere/pw.x -nk 4").compute("Si", si, BOTH, tmp_path / "run", 60.0)
    with pytest.raises(UsageError, match="option yambo: empty"):
        replayed(yambo=" ").check(si)
    with pytest.raises(UsageError, match=r"option p2y: .* no command line"):
        replayed(p2y="p2y 'half").check(si)
    with pytest.raises(UsageError, match="choose from ipa, rpa"):
        replayed().compute("Si", si, ["gw"], tmp_path / "run", 60.0)
    assert journal() == []
    assert not (tmp_path / "run").exists()


def test_behind_a_prefix(tmp_path: Path) -> None:
    programs = Programs(pw="sh -c 'echo got $FROM_A_MODULE $0' $HOME", prefix="export FROM_A_MODULE=qe")
    programs.check(["pw"])
    said, usage = programs.run("pw", ["-in"], tmp_path, "out", 60.0)
    assert said == "got qe $HOME\n"
    assert usage.wall_s >= 0.0
    with pytest.raises(ProgramMissing, match="after 'export A=1'"):
        Programs(pw="no-such-pw", prefix="export A=1").check()
    with pytest.raises(ProgramMissing, match="cannot be run"):
        Programs(pw="true", prefix="no-such-command load qe").run("pw", [], tmp_path, "out", 60.0)
    assert Programs(pw="true", processes=4).run("pw", [], tmp_path, "out", None)[1].cpu_s > 0.0


def test_what_decides_the_hash_is_physics(replayed: Engines) -> None:
    here, there = replayed(), replayed(pw="mpirun -np 8 pw.x", scratch="/scratch", prefix="module load qe")
    assert here.settings_hash == there.settings_hash
    assert here.settings_hash != replayed(settings={"eta_ev": 0.1}).settings_hash
    assert (here.name, here.label_engine) == ("qe_yambo", "qe_yambo")


def test_folders_that_cannot_be_used(replayed: Engines, si: Structure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectorError, match="cannot be written"):
        replayed().compute("Si", si, BOTH, tmp_path / "file" / "run", 60.0)
    with pytest.raises(SelectorError, match="cannot be written"):
        replayed(scratch=tmp_path / "file").compute("Si", si, BOTH, tmp_path / "run", 60.0)
    (tmp_path / "taken").mkdir()
    with (
        FileLock(tmp_path / "taken" / "calculation.lock"),
        pytest.raises(SelectorError, match="another calculation runs in this folder"),
    ):
        replayed().compute("Si", si, BOTH, tmp_path / "taken", 60.0)
    shared = replayed(scratch=tmp_path / "scratch")
    cell = primitive_cell(si)
    with (
        shared._root(tmp_path, cell, shared._pseudopotentials(cell)),
        pytest.raises(SelectorError, match=r"scratch/Si-\w+: another calculation runs"),
    ):
        shared.compute("Si", si, BOTH, tmp_path / "second attempt", 60.0)


def test_full_disks(
    replayed: Engines, si: Structure, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that cannot write may end as if nothing were wrong; this process notices its own."""
    with pytest.raises(SelectorError, match=r"no space left.*option scratch"):
        replayed("scf=full disk").compute("Si", si, BOTH, tmp_path / "fresh", 60.0)
    full = OSError(errno.ENOSPC, "No space left on device", "step.json")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(full))
        with pytest.raises(SelectorError, match=r"step\.json: No space left on device"):
            replayed(ladder=(2000,)).compute("Si", si, BOTH, run, 60.0)
    assert replayed(ladder=(2000,)).compute("Si", si, BOTH, run, 60.0).sc == pytest.approx(SC_AT_2000, abs=1e-4)


@pytest.mark.parametrize(("ending", "stage"), [(signal.SIGTERM, "response"), (signal.SIGKILL, "nscf")])
def test_killed_in_mid_run_it_goes_on(
    ending: int, stage: str, replayed: Engines, si: Structure, run: Path, journal: Journal
) -> None:
    """The program ends with its launcher; the next run takes up the finished steps, and nothing half written."""
    if stage == "nscf":
        shutil.rmtree(run / "nscf")
    else:
        (run / "dir_100_sc_2000").mkdir()
        (run / "dir_100_sc_2000" / "o-RPA_dir_100_sc_2000.eps_q1_inv_rpa_dyson").write_text("stale")
    launcher = multiprocessing.get_context("fork").Process(
        target=replayed(f"{stage}=sleep", ladder=(2000,)).compute, args=("Si", si, BOTH, run, None)
    )
    launcher.start()
    program = sleeper(run)
    os.kill(launcher.pid or 0, ending)
    launcher.join(20.0)
    assert launcher.exitcode == -ending
    if shutil.which("setpriv"):
        assert gone(program)
    else:
        os.kill(program, signal.SIGKILL)

    again = replayed(ladder=(2000,)).compute("Si", si, BOTH, run, 60.0)
    assert again.sc == pytest.approx(SC_AT_2000, abs=1e-4)
    assert journal() == {"response": ["response"] * 2, "nscf": ["nscf", "nscf", "response"]}[stage]
    assert not list(run.glob("*.part-*"))


def test_a_program_that_is_killed(replayed: Engines, si: Structure, run: Path, journal: Journal) -> None:
    shutil.rmtree(run / SCF)
    engine = replayed("scf=killed", ladder=(2000,))
    with pytest.raises(OutOfMemory):
        engine.compute("Si", si, ["ipa"], run, 60.0)
    assert (next(run.glob("scf*.failed")) / "out" / "crystal.save" / "charge-density.dat").exists()
    engine.compute("Si", si, ["ipa"], run, 60.0)
    assert journal() == ["scf", "scf"]
    assert not list(run.glob("*.failed"))


def test_the_time_limit_ends_the_program(replayed: Engines, si: Structure, run: Path) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut):
        replayed("response=sleep", ladder=(2000,)).compute("Si", si, BOTH, run, 1.5)
    assert time.monotonic() - start < 30.0
    assert gone(int((run / "dir_100_sc_2000.failed" / "pid").read_text()))


def test_stopped_by_pw_itself_it_restarts_from_files(
    replayed: Engines, si: Structure, run: Path, journal: Journal
) -> None:
    shutil.rmtree(run / SCF)
    engine = replayed("scf=pw_max_seconds,pw_max_seconds,silent", ladder=(2000,))
    for _ in range(2):
        with pytest.raises(TimedOut, match="stopped itself"):
            engine.compute("Si", si, ["ipa"], run, 60.0)
        stopped = next(run.glob("scf*.stopped"))
    assert "restart_mode = 'restart'" in (stopped / "pw.in").read_text()
    engine.compute("Si", si, ["ipa"], run, 60.0)
    # The third run could not go on from the files, so a fourth began anew.
    assert journal() == ["scf"] * 4
    assert "restart_mode = 'from_scratch'" in (run / SCF / "pw.in").read_text()


def test_a_field_that_does_not_converge_is_repaired(
    replayed: Engines, si: Structure, run: Path, journal: Journal
) -> None:
    shutil.rmtree(run / SCF)
    engine = replayed("scf=pw_scf_not_converged,pw_scf_not_converged", ladder=(2000,))
    calculation = engine.compute("Si", si, BOTH, run, 60.0)
    stages = {stage["name"]: stage for stage in calculation.details["stages"]}
    assert stages[SCF]["repairs"] == ["mixing 0.3", "mixing 0.2, conjugate gradients"]
    assert calculation.details["repairs"] == [f"{SCF}: mixing 0.3", f"{SCF}: mixing 0.2, conjugate gradients"]
    assert "diagonalization = 'cg'" in (run / SCF / "pw.in").read_text()
    assert calculation.sc == pytest.approx(SC_AT_2000, abs=1e-4)
    assert journal().count("scf") == 3


def test_only_the_same_physics_is_taken_over(replayed: Engines, si: Structure, run: Path, journal: Journal) -> None:
    (run / "result.npz").write_text("stale")
    (run / "database" / "step.json").write_text('{"fingerprint": "cut sh')
    (run / "bands_n100" / "pw.out").write_text("cut sh")
    (run / "nscf" / "out" / "crystal.save" / "l_p2y").write_text("[ERROR] of another run")
    first = replayed(ladder=(2000,), keep_files=True).compute("Si", si, BOTH, run, 60.0)
    assert journal() == ["bands", "p2y", "setup", "response"]
    reused = {stage["name"] for stage in first.details["stages"] if stage["reused"]}
    assert reused == {SCF, "nscf"}
    strained = si.copy()
    strained.scale_lattice(1.01 * si.volume)
    replayed(ladder=(2000,)).compute("Si", strained, BOTH, run, 60.0)
    assert journal()[4:] == ["scf", "bands", "nscf", "p2y", "setup", "response"]


def test_the_next_attempt_goes_on_in_the_scratch_folder(
    replayed: Engines, si: Structure, tmp_path: Path, journal: Journal
) -> None:
    options = {"scratch": tmp_path / "scratch", "ladder": (2000,)}
    with pytest.raises(OutOfMemory):
        replayed("nscf=killed", **options).compute("Si", si, BOTH, tmp_path / "attempt-1", 60.0)
    replayed(**options).compute("Si", si, BOTH, tmp_path / "attempt-2", 60.0)
    assert journal() == ["scf", "bands", "nscf", "nscf", "p2y", "setup", "response"]
    assert {path.name for path in (tmp_path / "attempt-2").iterdir()} == {"result.npz", "calculation.lock"}


def test_a_result_nobody_read_is_collected(replayed: Engines, si: Structure, run: Path) -> None:
    engine = replayed(ladder=(2000,))
    assert engine.collect(run) is None
    calculation = engine.compute("Si", si, BOTH, run, 60.0)
    again = engine.collect(run)
    assert again is not None
    assert again.sc == pytest.approx(calculation.sc, abs=1e-6)
    assert again.details == calculation.details
    assert replayed(ladder=(4000,)).collect(run) is None
    (run / "result.npz").write_bytes((run / "result.npz").read_bytes()[:-300])
    with pytest.raises(BadOutput, match="not a usable result"):
        engine.collect(run)


def test_estimates_follow_size_and_level(replayed: Engines, crystals: dict[str, Structure]) -> None:
    engine = replayed()
    for name, measured_s in (("Si", 195.0), ("LiF", 60.0)):
        assert engine.estimate_cpu_h(crystals[name]) * 3600.0 == pytest.approx(measured_s, rel=0.8)
        assert engine.estimate_cpu_h(crystals[name], "ipa") < engine.estimate_cpu_h(crystals[name], level="rpa")
    big = crystals["Si"].copy()
    big.scale_lattice(4.0 * big.volume)
    assert engine.estimate_cpu_h(big) > 4.0 * engine.estimate_cpu_h(crystals["Si"])


def test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the entry point names it."""
    from importlib.metadata import EntryPoint

    from fw_tasks import engines

    here = EntryPoint("qe_yambo", "fw_tasks.engines.qe_yambo:QEYamboEngine", engines.ENTRY_POINTS)
    monkeypatch.setattr(engines, "entry_points", lambda group: [here])
    engine = get_engine("qe_yambo", "standard", pw="mpirun -np 8 pw.x -nk 4", pseudo_dir="pseudos")
    assert isinstance(engine, QEYamboEngine)
    assert engine.settings["name"] == "qe-yambo-1"
    with pytest.raises(UsageError, match=r"no option 'pseudos'.*pseudo_dir"):
        get_engine("qe_yambo", pseudos="x")
