"""Every command as a user types it: a whole campaign with replayed labels, and the mistakes people make."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from models.labels import Label, load_labels, read_manifest
from selector import localdb
from selector.config import load_config
from selector.report import DECISION_COLUMNS

Run = Callable[..., tuple[int, str, str]]
N_CANDIDATES = 14
MANIFEST = Path(__file__).parents[1] / "benchmarks" / "manifests" / "2026-11-21.json"


@pytest.fixture(scope="session")
def labels() -> list[Label]:
    """Frozen labels, the lowest in SC of the cheaper ones."""
    cheap = [label for label in load_labels(ids=read_manifest(MANIFEST)) if label.cpu_s < 60.0]
    return sorted(cheap, key=lambda label: label.sc)[:N_CANDIDATES]


@pytest.fixture
def folder(tmp_path: Path, labels: list[Label]) -> Iterator[Path]:
    """A folder with crystals whose labels are known, and a campaign that replays them."""
    (tmp_path / "cifs").mkdir()
    for label in labels:
        label.structure.to(str(tmp_path / "cifs" / f"{label.material_id}.cif"))
    (tmp_path / "campaign.yaml").write_text(
        "campaign: rehearsal\nfolder: run\nbudget_cpu_h: 0.4\nengine: {name: replay}\n"
        "predictor: {retrain_every: 3}\npolicy: {threshold: 0.8}\nmax_in_flight: 3\n",
        encoding="utf-8",
    )
    yield tmp_path
    localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")


@pytest.mark.slow
def test_a_whole_campaign(selector: Run, folder: Path, labels: list[Label]) -> None:
    config = folder / "campaign.yaml"
    assert selector("init", config)[0] == 0
    code, out, _ = selector("add", folder / "cifs", "--config", config, "--json")
    assert code == 0
    assert len(json.loads(out)["added"]) == N_CANDIDATES
    assert "were there already" in selector("add", folder / "cifs", "--config", config)[1]

    code, out, _ = selector("plan", "--config", config, "--json")
    plan = json.loads(out)
    wanted = [c for c in plan["choices"] if c["level"] == "rpa"]
    # By value per cost, of which likeness to what goes before takes 30 % at most.
    ratio = [c["value"] / c["cost_predicted_cpu_h"] for c in wanted]
    assert all(after * 0.7 <= before for before, after in itertools.pairwise(ratio))
    assert all(c["sc_lo"] < c["sc_mean"] < c["sc_hi"] for c in plan["choices"])
    assert 0 < plan["cost_predicted_cpu_h"] <= plan["available_cpu_h"]
    assert "would get RPA" in selector("plan", "--config", config)[1]

    code, out, err = selector("run", "--config", config, "--workers", 2)
    assert code == 0, err
    assert "fine-tuned" in out

    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    assert status["counts"]["done"] >= 6
    assert 0 < status["spent_cpu_h"] <= status["budget_cpu_h"]
    assert status["reserved_cpu_h"] == 0.0
    assert status["calibration"]["state"] == "held_out"
    assert len(status["models"]) >= 2
    assert "rehearsal, finished" in selector("status", "--config", config)[1]
    assert "finished" in selector("status", "--config", config, "--watch")[1]
    assert "campaign finished" in selector("step", "--config", config)[1]
    assert json.loads(selector("step", "--config", config, "--json")[1])["dispatched"] == 0

    # The map, which takes its time, has tests of its own.
    code, out, _ = selector("report", "--config", config, "--no-map")
    assert code == 0
    with (folder / "run" / "report" / "decisions.csv").open(encoding="utf-8") as f:
        rows = {row["material_id"]: row for row in csv.DictReader(f)}
    assert set(rows) == {label.material_id for label in labels}
    assert set(next(iter(rows.values()))) == set(DECISION_COLUMNS)
    assert all(row["reason"] and row["model_id"] for row in rows.values())
    for label in labels:
        row = rows[label.material_id]
        if row["status"] == "done":
            assert row["level"] == "rpa"
            # The grid's splines are taken twice: once when labels were packed, once here.
            assert float(row["sc_computed"]) == pytest.approx(label.sc, abs=2e-3)
    page = (folder / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert "rehearsal" in page
    other = folder / "elsewhere"
    files = json.loads(selector("report", "--config", config, "--no-map", "--out", other, "--json")[1])["files"]
    assert Path(files["decisions"]).parent == other

    assert "answers" in selector("doctor", "--config", config)[1]
    assert json.loads(selector("db", "status", "--config", config, "--json")[1])["running"]
    assert "mongodb://" in selector("db", "start", "--config", config)[1]
    assert "stopped" in selector("db", "stop", "--config", config)[1]


def test_a_campaign_calibrated_by_its_weights_says_what_predict_says(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    predicted = json.loads(selector("predict", folder / "cifs", "--json")[1])["predictions"]
    ends = {p["material_id"]: (p["sc_lo"], p["sc_mean"], p["sc_hi"]) for p in predicted}
    choices = json.loads(selector("plan", "--config", config, "--json")[1])["choices"]
    assert {c["material_id"] for c in choices} == set(ends)
    for c in choices:
        assert (c["sc_lo"], c["sc_mean"], c["sc_hi"]) == pytest.approx(ends[c["material_id"]], abs=1e-6)
        assert c["calibration"] == "held_out"


def test_a_campaign_moves_to_another_database(selector: Run, folder: Path, labels: list[Label]) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    assert "documents" in selector("db", "export", folder / "dump", "--config", config)[1]
    moved = folder / "moved.yaml"
    moved.write_text(config.read_text(encoding="utf-8") + "database: {name: moved}\n", encoding="utf-8")
    dumped = next(file.parent for file in (folder / "dump").rglob("campaigns.bson"))
    assert "read from" in selector("db", "import", dumped, "--config", moved)[1]
    assert "rehearsal, running" in selector("status", "--config", moved)[1]


def begin_slowly(selector: Run, folder: Path, time_scale: float) -> list[str]:
    """Begin the campaign with calculations that take their time, and retries enough; the command that runs it."""
    config = folder / "campaign.yaml"
    text = config.read_text(encoding="utf-8").replace("budget_cpu_h: 0.4", "budget_cpu_h: 3.0\nmax_attempts: 20")
    options = f"{{name: replay, options: {{time_scale: {time_scale}}}}}"
    config.write_text(text.replace("{name: replay}", options), encoding="utf-8")
    selector("init", config)
    selector("add", folder / "cifs", "--config", config)
    return [sys.executable, "-m", "selector.cli", "run", "--config", str(config), "--workers", "2"]


def _results(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime for p in (folder / "run" / "calculations").glob("*/*/calculation.npz")}


@pytest.mark.parametrize(
    ("whom", "delays_s"),
    [
        pytest.param("everyone", (4.0, 6.5), marks=pytest.mark.slow),
        pytest.param("the run alone", (4.0, 6.5), marks=pytest.mark.slow),
        pytest.param("everyone", (2.2, 2.7, 3.1, 3.4, 3.8, 4.1, 4.4, 4.9, 5.5, 6.3), marks=pytest.mark.slow),
    ],
)
def test_killed_and_started_again_it_loses_nothing_and_repeats_nothing(
    selector: Run, folder: Path, whom: str, delays_s: tuple[float, ...]
) -> None:
    config = folder / "campaign.yaml"
    command = begin_slowly(selector, folder, time_scale=0.03)
    recorded: dict[str, float] = {}
    for delay_s in delays_s:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay_s)
        if whom == "everyone":
            os.killpg(run.pid, signal.SIGKILL)
        else:
            run.kill()
        run.wait()
        now = _results(folder)
        assert recorded.items() <= now.items()
        recorded = now
    code, _, err = selector("run", "--config", config, "--workers", 2)
    assert code == 0, err
    final = _results(folder)
    assert recorded.items() <= final.items()
    materials = [Path(file).parts[-3] for file in final]
    assert len(materials) == len(set(materials))
    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    assert status["counts"]["done"] == len(materials) >= 4
    assert status["spent_cpu_h"] <= status["budget_cpu_h"]
    assert status["reserved_cpu_h"] == 0.0


@pytest.mark.slow
def test_a_database_killed_in_the_middle_is_started_again(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    command = begin_slowly(selector, folder, time_scale=0.05)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    file = folder / "run" / "database" / "selector.sqlite"
    for delay_s in (5.0, 4.0):
        time.sleep(delay_s)
        # On a busy machine it may take a while to be up again.
        while (pid := localdb.status(file)["pid"]) is None and run.poll() is None:
            time.sleep(0.2)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert status["state"] == "finished"
    materials = [Path(name).parts[-3] for name in _results(folder)]
    assert len(materials) == len(set(materials)) == status["counts"]["done"]
    assert status["reserved_cpu_h"] == 0.0


def test_predict_writes_a_row_per_crystal_and_names_what_it_cannot_read(
    selector: Run, folder: Path, labels: list[Label]
) -> None:
    (folder / "cifs" / "broken.cif").write_text("data_x\n_cell_length_a 1\n", encoding="utf-8")
    out_file = folder / "sc.csv"
    code, _, err = selector("predict", folder / "cifs", "--out", out_file)
    assert code == 1
    assert "broken.cif" in err
    with out_file.open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0])[2:] == ["sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "out_of_domain"]
    assert {row["material_id"] for row in rows} == {label.material_id for label in labels}
    assert all(float(r["sc_lo"]) <= float(r["sc_mean"]) <= float(r["sc_hi"]) <= 1.0 for r in rows)
    one = folder / "cifs" / f"{labels[0].material_id}.cif"
    assert labels[0].formula in selector("predict", one)[1]
    assert len(json.loads(selector("predict", one, "--json")[1])["predictions"]) == 1


def test_compute_writes_both_spectra(selector: Run, folder: Path, labels: list[Label]) -> None:
    out_file = folder / "one.json"
    code, _, err = selector(
        "compute", folder / "cifs" / f"{labels[0].material_id}.cif", "--engine", "replay", "--out", out_file
    )
    assert code == 0, err
    document = json.loads(out_file.read_text(encoding="utf-8"))
    keys = {"material_id", "formula", "sc", "eps_static", "gap_ev", "n_g", "cpu_s", "wall_s", "settings", "spectra"}
    assert keys | {"ladder", "repairs"} <= set(document)
    assert document["sc"] == pytest.approx(labels[0].sc, abs=2e-3)
    assert {len(v) for v in document["spectra"].values()} == {2001}
    assert {len(v) for v in document["directions"].values()} == {3}
    assert set(document["spectra"]) == {"energy_ev", "ipa_im", "ipa_re", "rpa_im", "rpa_re"}


def test_compute_refuses_by_name_before_and_after_computing(selector: Run, folder: Path, labels: list[Label]) -> None:
    good = folder / "cifs" / f"{labels[0].material_id}.cif"
    stranger = folder / "stranger.cif"
    Structure(Lattice.cubic(4), ["Na", "K"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(stranger))
    for arguments, code, words in (
        ([good, "--out", "/proc/nowhere/x.json"], 2, ["/proc/nowhere"]),
        ([good, "--out", folder / "x.json", "--engine", "vasp"], 2, ["vasp", "gpaw"]),
        ([good, "--out", folder / "x.json", "--preset", "huge"], 2, ["huge", "standard"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "labels"], 2, ["labels", "KEY=VALUE"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "times=1"], 2, ["times", "time_scale"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "time_scale=-1"], 2, ["time_scale -1"]),
        ([folder / "no.cif", "--out", folder / "x.json"], 2, ["no.cif"]),
        ([good, "--out", folder, "--engine", "replay"], 2, ["a folder", "name the file"]),
        ([good, "--out", folder / "x.json", "--engine", "qe_yambo"], 1, ["MissingDataset", "option pseudo_dir"]),
        ([good, "--out", folder / "x.json", "--option", "python=/no/python"], 1, ["ProgramMissing", "option python"]),
        ([good, "--out", folder / "x.json", "--option", "spin_check=perhaps"], 2, ["spin_check", "boolean"]),
        (
            [stranger, "--out", folder / "x.json", "--engine", "replay"],
            1,
            ["stranger.cif: UnknownMaterial", "replay only"],
        ),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--time-limit-s", 1], 1, ["TimedOut", "more time"]),
    ):
        got, _, err = selector("compute", *arguments)
        assert got == code
        assert len(err.strip().splitlines()) == 1
        assert all(word in err for word in words), err
    assert not (folder / "x.json").exists()


def test_what_was_computed_is_kept_when_it_cannot_be_written(
    selector: Run, folder: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    crystal, out = folder / "cifs" / f"{labels[0].material_id}.cif", folder / "one.json"
    code, _, err = selector("compute", crystal, "--engine", "replay", "--out", out)
    assert (code, "TMPDIR" in err) == (1, True)
    (folder / "temporary").mkdir()
    # Where it would be written before it gets its name.
    (folder / f"one.json.{os.getpid()}.part").symlink_to("/dev/full")
    code, _, err = selector("compute", crystal, "--engine", "replay", "--out", out)
    assert code == 2
    assert "one.json cannot be written (No space left on device)" in err
    (kept,) = (folder / "temporary").iterdir()
    assert f"kept in {kept}" in err
    assert not out.exists()
    assert selector("compute", crystal, "--engine", "replay", "--out", out)[0] == 0
    assert list((folder / "temporary").iterdir()) == [kept]


@pytest.mark.gpaw
def test_a_metal_is_refused_by_gpaw(selector: Run, folder: Path) -> None:
    metal = folder / "magnesium.cif"
    Structure(Lattice.from_parameters(3.2, 3.2, 3.2, 60, 60, 60), ["Mg"], [[0, 0, 0]]).to(str(metal))
    code, _, err = selector("compute", metal, "--preset", "smoke", "--out", folder / "x.json")
    assert code == 1
    assert "magnesium.cif: Metallic" in err
    assert "leave it out" in err
    assert len(err.strip().splitlines()) == 1


def test_broken_inputs_are_named_and_the_rest_goes_on(selector: Run, folder: Path, labels: list[Label]) -> None:
    bad = folder / "bad"
    bad.mkdir()
    (bad / "empty.cif").write_text("", encoding="utf-8")
    nacl = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    disordered = nacl.copy()
    disordered.replace(0, {"Na": 0.5, "K": 0.5})
    disordered.to(str(bad / "disordered.cif"))
    Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.02, 0, 0]]).to(str(bad / "overlap.cif"))
    Structure(Lattice.cubic(4), ["Tc", "Tc"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(bad / "technetium.cif"))
    Structure(Lattice.cubic(4), ["Na", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(bad / "odd.cif"))
    labels[0].structure.to(str(bad / "twin.cif"))
    config = folder / "campaign.yaml"
    selector("init", config)
    code, out, err = selector("add", folder / "cifs", bad, "--config", config, "--json")
    assert code == 1
    answer = json.loads(out)
    assert len(answer["added"]) == N_CANDIDATES
    reasons = {r["material_id"]: r["reason"] for r in answer["rejected"]}
    assert reasons == {
        "empty": "unreadable",
        "disordered": "disordered",
        "overlap": "overlapping_atoms",
        "technetium": "missing_dataset",
        "odd": "odd_electrons",
        # The folder `bad` is read before `cifs`: the twin stands first, and the one beside it is its duplicate.
        **{k: "duplicate" for k in reasons if k in ("twin", labels[0].material_id)},
    }
    for name in ("empty.cif", "disordered.cif", "overlap.cif", "technetium.cif", "odd.cif"):
        assert sum(name in line for line in err.splitlines()) == 1
    assert json.loads(selector("status", "--config", config, "--json")[1])["counts"]["rejected"] == 6


@pytest.mark.parametrize(
    ("change", "arguments", "code", "words"),
    [
        (("budget_cpu_h: 0.4", "budget_cpu_h: -1"), ["init"], 2, ["campaign.yaml", "budget_cpu_h"]),
        (("max_in_flight", "max_in_fligth"), ["init"], 2, ["campaign.yaml", "max_in_fligth"]),
        (("replay", "vasp"), ["init"], 2, ["vasp", "gpaw"]),
        (("threshold: 0.8", "name: psychic"), ["init"], 2, ["psychic", "threshold"]),
        (("folder: run", "folder: /proc/nowhere"), ["init"], 2, ["/proc/nowhere"]),
        (("folder: run", "folder: run\ndatabase: {uri: 'mongodb://127.0.0.1:9/'}"), ["init"], 1, ["127.0.0.1:9"]),
        (("folder: run", "folder: run\ndatabase: {uri: 'http://x/'}"), ["init"], 2, ["database.uri"]),
    ],
)
def test_a_wrong_configuration_is_one_line(
    selector: Run, folder: Path, change: tuple[str, str], arguments: list[str], code: int, words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("fw_tasks.database.CONNECT_TIMEOUT_MS", 500)
    config = folder / "campaign.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    got, _, err = selector(*arguments, config)
    assert got == code
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err


def test_a_campaign_is_begun_once_and_not_changed_afterwards(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    code, _, err = selector("status", "--config", config)
    assert code == 1
    assert "selector init" in err
    selector("init", config)
    code, _, err = selector("init", config)
    assert code == 2
    assert "exists already" in err
    config.write_text(config.read_text(encoding="utf-8").replace("0.4", "0.5"), encoding="utf-8")
    code, _, err = selector("plan", "--config", config)
    assert code == 2
    assert "budget_cpu_h" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("threshold: 0.8", "threshold: 1.5"), ["policy.threshold", "1.5"]),
        (("budget_cpu_h: 0.4", "budget_cpu_h: 0.4\naudit_fraction: 1.5"), ["audit_fraction", "1.5"]),
    ],
)
def test_a_file_broken_in_mid_campaign_changes_nothing(
    selector: Run, folder: Path, change: tuple[str, str], words: list[str]
) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    before = selector("status", "--config", config, "--json")
    good = config.read_text(encoding="utf-8")
    config.write_text(good.replace(*change), encoding="utf-8")
    for command in ("plan", "step", "run", "status"):
        code, _, err = selector(command, "--config", config)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        for word in words:
            assert word in err
    config.write_text(good, encoding="utf-8")
    assert selector("status", "--config", config, "--json") == before


def test_files_that_are_not_there(selector: Run, folder: Path) -> None:
    config = folder / "campaign.yaml"
    selector("init", config)
    for arguments in (
        ["add", "nowhere.cif", "--config", config],
        ["predict", "nowhere.cif"],
        ["plan", "--config", "no.yaml"],
    ):
        code, _, err = selector(*arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert "no" in err


def test_help_and_doctor_explain_themselves(selector: Run) -> None:
    for arguments in (["--help"], ["run", "--help"], ["predict", "--help"], ["db", "--help"]):
        assert "Usage" in selector(*arguments)[1]
    code, out, _ = selector("doctor", "--json")
    found: dict[str, Any] = {f["what"]: f for f in json.loads(out)["findings"]}
    assert code == 0
    assert found["shipped weights"]["ok"]
    assert found["torch"]["ok"]


def test_doctor_looks_at_the_programs_of_a_campaign(selector: Run, tmp_path: Path) -> None:
    header = '<PP_HEADER pseudo_type="NC" functional="PBE" z_valence="4.0"/>'
    (tmp_path / "Si.upf").write_text(f'<UPF version="2.0.1">\n{header}\n</UPF>\n', encoding="utf-8")
    config = tmp_path / "campaign.yaml"

    def found(options: str) -> dict[str, Any]:
        config.write_text(
            f"campaign: c\nfolder: run\nbudget_cpu_h: 1\nengine: {{name: qe_yambo, options: {{{options}}}}}\n"
        )
        try:
            code, out, _ = selector("doctor", "--config", config, "--json")
        finally:
            localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")
        assert code == 1
        return {f["what"]: f for f in json.loads(out)["findings"]}

    here = found(f"pseudo_dir: {tmp_path}, pw: cat, p2y: no-such-p2y, prefix: export A=1")
    assert here["the engine's pw"] == {**here["the engine's pw"], "ok": True, "found": "cat"}
    assert not here["the engine's p2y"]["ok"]
    assert "no-such-p2y is not on PATH after 'export A=1'" in here["the engine's p2y"]["remedy"]
    # Not the file that SG15's sums ask for.
    assert (here["pseudopotentials"]["ok"], here["pseudopotentials"]["found"]) == (False, f"{tmp_path}, elements: 0")
    own = found(f"pseudo_dir: {tmp_path}, settings: {{pseudopotentials: own}}")
    assert (own["pseudopotentials"]["ok"], own["pseudopotentials"]["found"]) == (True, f"{tmp_path}, elements: 1")
    assert "option pseudo_dir" in found("pseudo_dir: nowhere")["pseudopotentials"]["remedy"]


def test_the_demo_configuration_is_the_one_the_readme_shows(demo_crystals: Path) -> None:
    config = load_config(demo_crystals / "campaign.yaml")
    assert config.engine.name == "gpaw"
    assert config.engine.preset == "standard"
