"""The mistakes people make: each is one line, and what was there before is there still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from models.labels import Label
from tests.conftest import Run
from tests.crystals import face_centred


def test_broken_inputs_are_named_and_the_rest_goes_on(selector: Run, folder: Path, labels: list[Label]) -> None:
    bad = folder / "bad"
    bad.mkdir()
    (bad / "empty.cif").write_text("", encoding="utf-8")
    nacl = face_centred("rocksalt", 5.6, "Na", "Cl")
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
    assert len(answer["added"]) == len(labels)
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
