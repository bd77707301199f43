"""The GPAW adapter, with its worker script replaced by one that fails in every way a worker can."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crystals import fcc
from pymatgen.core import Lattice, Structure

from fw_tasks.engines import base, get_engine
from fw_tasks.engines.base import (
    BadOutput,
    Calculation,
    EngineError,
    MissingDataset,
    OddElectrons,
    OutOfMemory,
    ProgramMissing,
    TimedOut,
)
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_settings import PRESETS
from selector.errors import SelectorError, UsageError
from selector.spectra import settings_hash

FAKE = Path(__file__).with_name("fake_worker.py")
SHIPPED_SETTINGS = {
    "name": "standard-1", "xc": "PBE", "pw_ev": 350.0, "kppa_scf": 100, "kppa_response": 300, "emax_c_ev": 35.0,
    "ecut_ev": 54.4, "closed_shell": True, "eta_ev": 0.3, "domega0_ev": 0.1,
}  # fmt: skip
LIF = fcc(4.026, ["Li", "F"])
BOTH = ("ipa", "rpa")


def compute(what: str, workdir: Path, limit_s: float | None = 60.0, levels: tuple[str, ...] = BOTH) -> Calculation:
    return GPAWEngine(worker=FAKE).compute(what, LIF, levels, workdir, limit_s)


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process has ended (a zombie has), waiting a little for it."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def wait_for(path: Path, within_s: float = 60.0) -> str:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} never appeared")


# Settings -------------------------------------------------------------------------------------------------------------


def test_standard_is_the_setting_of_the_shipped_labels() -> None:
    engine = GPAWEngine("standard")
    assert engine.settings == SHIPPED_SETTINGS
    assert engine.settings_hash == settings_hash(SHIPPED_SETTINGS)
    assert GPAWEngine().settings == SHIPPED_SETTINGS


def test_presets_are_different_kinds_of_label() -> None:
    assert len({GPAWEngine(p).settings_hash for p in PRESETS}) == len(PRESETS) == 3


def test_changed_settings_are_another_kind_of_label() -> None:
    changed = GPAWEngine("standard", settings={"pw_ev": 400.0})
    assert changed.settings["pw_ev"] == 400.0
    assert changed.settings["name"] != "standard-1"
    assert changed.settings_hash != GPAWEngine("standard").settings_hash


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"pw": 400.0}, "pw"), ({"pw_ev": -1.0}, "pw_ev"), ({"kppa_scf": 1.5}, "kppa_scf"), ({"xc": "HSE"}, "xc")],
)
def test_wrong_settings_are_named(changes: dict, key: str) -> None:
    with pytest.raises(UsageError, match=rf"{key}\b"):
        GPAWEngine("standard", settings=changes)


def test_unknown_preset_names_the_choices() -> None:
    with pytest.raises(UsageError, match="smoke, standard, tight"):
        GPAWEngine("quick")


# Refusals before any cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", ["Tc", "Po", "At", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Pu"])
def test_elements_without_dataset(element: str) -> None:
    engine, structure = GPAWEngine(), fcc(5.0, [element, "O"])
    with pytest.raises(MissingDataset, match=element):
        engine.check(structure)
    with pytest.raises(MissingDataset, match=element):
        engine.estimate_cpu_h(structure)


def test_odd_electrons_are_counted_in_the_primitive_cell() -> None:
    doubled = fcc(4.0, ["Na", "O"]).make_supercell([2, 1, 1], in_place=False)
    assert sum(doubled.atomic_numbers) % 2 == 0
    with pytest.raises(OddElectrons, match="19"):
        GPAWEngine().check(doubled)
    GPAWEngine().check(LIF)


def test_oxidation_states_do_not_matter() -> None:
    charged = LIF.copy().add_oxidation_state_by_element({"Li": 1, "F": -1})
    GPAWEngine().check(charged)
    assert GPAWEngine().estimate_cpu_h(charged) == pytest.approx(GPAWEngine().estimate_cpu_h(LIF))


def test_partly_occupied_sites_are_a_users_mistake() -> None:
    mixed = Structure(Lattice.cubic(4.0), [{"Li": 0.5, "Na": 0.5}, "F"], [[0] * 3, [0.5] * 3])
    with pytest.raises(UsageError, match="partly occupied"):
        GPAWEngine().check(mixed)


def test_absent_program_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProgramMissing, match=r"theory-level-selector\[gpaw\]"):
        GPAWEngine().check(LIF)
    # Another interpreter may have it; the structure's own faults are still seen here.
    GPAWEngine(python=sys.executable).check(LIF)
    with pytest.raises(OddElectrons):
        GPAWEngine().check(fcc(4.0, ["Na", "O"]))


def test_the_adapter_imports_no_gpaw() -> None:
    code = "import sys; import fw_tasks.engines.gpaw; sys.exit('gpaw' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What comes back ------------------------------------------------------------------------------------------------------


def test_a_good_result(tmp_path: Path) -> None:
    workdir = tmp_path / "deep" / "folder"
    result = compute("good", workdir)
    assert result.sc == pytest.approx(0.8, abs=1e-6)
    assert (result.engine, result.version, result.settings_hash) == ("gpaw", "0.0", GPAWEngine().settings_hash)
    assert result.gap_ev == 4.0
    assert result.cpu_s == 1.5
    assert 0.0 < result.wall_s < 60.0
    assert result.details["n_g"] == 27
    rungs = result.details["ladder"]
    assert [(rung["axes"], rung["n_g"]) for rung in rungs] == [("xyz", 1), ("xyz", 9), ("xyz", 27)]
    assert [rung["sc"] for rung in rungs] == pytest.approx([1.0, 0.9, 0.8], abs=1e-5)
    result.save(tmp_path / "saved.npz")
    assert Calculation.load(tmp_path / "saved.npz").sc == pytest.approx(0.8, abs=1e-6)


def test_a_repair_that_changes_the_numbers_changes_the_hash(tmp_path: Path) -> None:
    result = compute("repaired", tmp_path)
    assert result.details["repairs"] == ["Niggli-reduced cell"]
    assert result.settings == SHIPPED_SETTINGS | {"name": "standard-1-repaired", "cell": "niggli"}
    asked = GPAWEngine("standard", settings={"cell": "niggli"})
    assert result.settings_hash == asked.settings_hash != GPAWEngine().settings_hash


def test_only_the_levels_asked_for(tmp_path: Path) -> None:
    result = compute("no rpa", tmp_path, levels=("ipa",))
    assert set(result.spectra) == {"ipa"}
    assert result.details["ladder"] == []


@pytest.mark.parametrize("levels", [(), ("gw",), ("ipa", "bse")])
def test_unknown_levels(levels: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ipa, rpa"):
        compute("good", tmp_path, levels=levels)


def test_one_thread_and_a_process_group_of_its_own(tmp_path: Path) -> None:
    result = compute("environment", tmp_path)
    assert (result.gap_ev, result.details["n_g"]) == (1.0, 1)


@pytest.mark.parametrize(
    "name",
    ["NotConverged", "Metallic", "OddElectrons", "Magnetic", "MissingDataset", "OutOfMemory", "BadOutput", "TimedOut"],
)
def test_the_workers_own_errors_come_back_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="as asked") as caught:
        compute(f"error:{name}", tmp_path)
    assert type(caught.value) is getattr(base, name)
    assert caught.value.reason == name
    assert caught.value.wall_s > 0.0


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("not finite", "not finite"),
        ("negative", "negative absorption"),
        ("dark", "no absorption"),
        ("short range", "20 eV"),
        ("gap of 0", "gap is 0 eV"),
        ("too strong", r"absorbs like .* electrons"),
        ("upside down", "static limit"),
        ("acausal", "Kramers"),
    ],
)
def test_what_is_no_response_is_kept_with_its_reason_and_no_label(what: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadOutput, match=says) as caught:
        compute(what, tmp_path)
    assert caught.value.wall_s > 0.0
    kept = Calculation.load(tmp_path / "rejected.npz")
    assert set(kept.spectra) == {"ipa", "rpa"}
    assert kept.details["rejected"] == str(caught.value)
    with pytest.raises(BadOutput, match=says):
        GPAWEngine(worker=FAKE).collect(tmp_path)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("unexplained", "status 3: last words"),
        ("error:SystemExit", "status 1"),
        ("error:os", "status 1"),
        ("old error", "status 1"),
        ("nothing", "result.npz"),
        ("garbage", "result.npz"),
        ("cut short", "result.npz"),
        ("other id", "another run"),
        ("wrong shape", "shape"),
        ("no rpa", "rpa_eps"),
        ("no gap", "result.npz"),
        ("no ladder", "ladder_eps"),
        ("signal:SIGSEGV", "SIGSEGV"),
    ],
)
def test_bad_output_is_never_a_label(what: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadOutput, match=says) as caught:
        compute(what, tmp_path)
    assert caught.value.wall_s > 0.0
    assert "\n" not in str(caught.value)


def test_a_stale_result_is_never_read(tmp_path: Path) -> None:
    compute("good", tmp_path)
    assert (tmp_path / "result.npz").exists()
    with pytest.raises(BadOutput):
        compute("nothing", tmp_path)
    with pytest.raises(base.Metallic):
        compute("error:Metallic", tmp_path)
    with pytest.raises(BadOutput):
        compute("unexplained", tmp_path)


# Launchers ------------------------------------------------------------------------------------------------------------

LAUNCHER = """#!/bin/sh
echo "$1 $2" > launched
shift 2
exec "$@"
"""


def test_a_launcher_starts_the_worker(tmp_path: Path) -> None:
    launcher = tmp_path / "mpirun"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    engine = GPAWEngine(worker=FAKE, command=f"{launcher} -np 4 {{python}}")
    result = engine.compute("good", LIF, BOTH, tmp_path / "run", 60.0)
    assert result.sc == pytest.approx(0.8, abs=1e-6)
    assert (tmp_path / "run" / "launched").read_text() == "-np 4\n"
    assert json.loads((tmp_path / "run" / "job.json").read_text())["parent"] is None
    assert engine.settings_hash == GPAWEngine().settings_hash


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("command", "mpirun -np 4", "{python}"),
        ("command", "mpirun '-np {python}", "no command line"),
        ("memory_limit_gb", 0.0, "above 0"),
        ("ladder_to_ev", -1.0, "above 0"),
    ],
)
def test_wrong_options_are_named(option: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        GPAWEngine(**{option: value})


def test_a_launcher_that_is_not_there() -> None:
    with pytest.raises(ProgramMissing, match="no-such-launcher"):
        GPAWEngine(worker=FAKE, command="no-such-launcher {python}").check(LIF)


# Limits and killing ---------------------------------------------------------------------------------------------------


def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match="3 s") as caught:
        compute("stubborn", tmp_path, limit_s=3.0)
    # The grace between SIGTERM and SIGKILL lies within the limit; what is above it is process handling.
    assert 2.5 < time.monotonic() - start < 5.0
    assert caught.value.retry
    assert gone(int((tmp_path / "pid").read_text()))
    assert gone(int((tmp_path / "child").read_text()))


def test_killed_from_outside_is_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="memory"):
        compute("signal:SIGKILL", tmp_path)


def test_a_library_that_gets_no_memory_is_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="allocation still failed"):
        compute("allocation", tmp_path)


def test_terminated_from_outside_is_a_time_out(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="SIGTERM"):
        compute("signal:SIGTERM", tmp_path)


def launch(workdir: Path, worker: Path, material_id: str) -> subprocess.Popen[bytes]:
    """A launcher process that computes in ``workdir``."""
    code = (
        "import signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        # A shell's background jobs inherit that they ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from crystals import fcc; from fw_tasks.engines.gpaw import GPAWEngine\n"
        "engine = GPAWEngine(worker=sys.argv[2])\n"
        "engine.compute(sys.argv[4], fcc(4.026, ['Li', 'F']), ['ipa', 'rpa'], Path(sys.argv[3]), None)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), worker, workdir, material_id])


def test_ctrl_c_takes_the_worker_along_and_the_folder_is_held_meanwhile(tmp_path: Path) -> None:
    launcher = launch(tmp_path, FAKE, "sleep")
    pid = int(wait_for(tmp_path / "pid"))
    with pytest.raises(SelectorError, match="another calculation runs"):
        compute("good", tmp_path)
    launcher.send_signal(signal.SIGINT)
    launcher.wait(20)
    assert gone(pid)
    assert compute("good", tmp_path).gap_ev == 4.0


@pytest.mark.gpaw
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_launcher_leaves_no_worker_computing(how: signal.Signals, tmp_path: Path) -> None:
    from fw_tasks.engines.gpaw import WORKER

    launcher = launch(tmp_path, WORKER, "LiF")
    log = tmp_path / "worker.log"
    while "stage scf" not in (wait_for(log) if log.exists() else ""):
        time.sleep(0.05)
        assert launcher.poll() is None
    workers = [int(p) for p in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    assert len(workers) == 1
    launcher.send_signal(how)
    launcher.wait(20)
    assert gone(workers[0])
    assert not (tmp_path / "result.npz").exists()
    # The next run in the folder starts clean, whatever the killed one was writing.
    (tmp_path / "result.npz.part").write_text("half written")
    assert GPAWEngine().collect(tmp_path) is None
    assert compute("good", tmp_path).gap_ev == 4.0
    assert not (tmp_path / "result.npz.part").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectorError, match="file") as caught:
        compute("good", tmp_path / "file" / "folder")
    assert not isinstance(caught.value, EngineError)


@pytest.mark.parametrize(
    ("what", "full", "says"),
    [
        ("full disk", None, "no space left; free some"),
        ("good", "job.json", "No space left on device"),
        ("gap of 0", "rejected.npz.part", "No space left on device"),
    ],
)
def test_a_full_disk_is_no_fault_of_the_material(what: str, full: str | None, says: str, tmp_path: Path) -> None:
    """Whoever writes meets it: the worker, this process before it, this process after it."""
    if full:
        (tmp_path / full).symlink_to("/dev/full")
    with pytest.raises(SelectorError, match=says) as caught:
        compute(what, tmp_path)
    assert not isinstance(caught.value, EngineError)
    assert str(tmp_path) in str(caught.value)
    if full:
        (tmp_path / full).unlink()
    assert compute("good", tmp_path).gap_ev == 4.0


def test_a_python_that_does_not_exist(tmp_path: Path) -> None:
    engine = get_engine("gpaw", "smoke", python=str(tmp_path / "python"), worker=FAKE)
    with pytest.raises(SelectorError, match="python"):
        engine.compute("good", LIF, BOTH, tmp_path / "run", 60.0)


def test_the_environment_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    compute("good", tmp_path)
    assert dict(os.environ) == before


def test_a_result_nobody_read_is_collected(tmp_path: Path) -> None:
    engine = GPAWEngine(worker=FAKE)
    assert engine.collect(tmp_path) is None
    read = compute("good", tmp_path)
    collected = engine.collect(tmp_path)
    assert collected is not None
    assert collected.sc == read.sc
    assert collected.details == read.details
    assert GPAWEngine("smoke", worker=FAKE).collect(tmp_path) is None
    assert 0.0 <= collected.wall_s <= read.wall_s + 1.0
