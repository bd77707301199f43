"""Two stages as a user sees them: IPA first with real FireWorks, and IPA spectra that are given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fw_tasks.engines import get_engine
from fw_tasks.engines.as_json import calculation_to_json
from models.labels import Label, load_labels
from selector import localdb
from selector.cli.ipa_spectra import to_give
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.spectra import Spectrum
from tests.conftest import Run

# Predicted SC by structure, then with the IPA spectrum: below and below; below and above 0.75; above.
WANTED, NO_NEED, NEVER = ("agm003157567", "agm003157250"), ("agm003069336", "agm003995291"), ("agm001665779",)


@pytest.fixture(scope="module")
def labels() -> dict[str, Label]:
    return {label.material_id: label for label in load_labels(ids=[*WANTED, *NO_NEED, *NEVER])}


@pytest.fixture
def folder(tmp_path: Path, labels: dict[str, Label]) -> Iterator[Path]:
    (tmp_path / "cifs").mkdir()
    for label in labels.values():
        label.structure.to(str(tmp_path / "cifs" / f"{label.material_id}.cif"))
    yield tmp_path
    localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")


def begin(selector: Run, folder: Path, ipa: str) -> Path:
    config = folder / "campaign.yaml"
    config.write_text(
        f"campaign: stages\nfolder: run\nbudget_cpu_h: 1\naudit_fraction: 0\nengine: {{name: replay}}\nipa: {ipa}\n"
        "policy: {name: threshold, threshold: 0.75, random_share: 0}\nmax_in_flight: 3\n"
        "predictor: {retrain_every: 2}\n",
        encoding="utf-8",
    )
    assert selector("init", config)[0] == 0
    return config


def write_ipa(folder: Path, label: Label, **changes: Any) -> None:
    """What `selector compute` writes."""
    found = get_engine("replay").compute(label.material_id, label.structure, ["ipa"], folder, None)
    text = json.dumps(calculation_to_json(label.material_id, label.formula, replace(found, **changes)))
    folder.mkdir(exist_ok=True)
    (folder / f"{label.material_id}.json").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_some_need_no_rpa_once_their_ipa_spectrum_is_known(selector: Run, folder: Path) -> None:
    config = begin(selector, folder, "compute")
    assert selector("add", folder / "cifs", "--config", config)[0] == 0
    plan = json.loads(selector("plan", "--config", config, "--json")[1])
    first = {c["material_id"]: c.get("ipa_first_cpu_h") for c in plan["choices"]}
    assert {m for m, cpu_h in first.items() if cpu_h} == {*WANTED, *NO_NEED}
    assert "IPA first" in selector("plan", "--config", config)[1]
    code, _, err = selector("run", "--config", config, "--workers", 2)
    assert code == 0, err

    status = json.loads(selector("status", "--config", config, "--json")[1])
    assert (status["state"], status["reserved_cpu_h"]) == ("finished", 0.0)
    assert status["n_by_purpose"]["ipa"] == len(WANTED + NO_NEED)
    assert status["n_by_purpose"]["rpa"] == len(WANTED)
    assert status["by_stage"]["ipa"] > 0 < status["by_purpose"]["ipa"]
    assert selector("export", folder / "out", "--config", config)[0] == 0
    rows = json.loads((folder / "out" / "materials.json").read_text(encoding="utf-8"))["materials"]
    ends = {row["material_id"]: (row["ipa"], row["rpa"], row["level"], row["status"]) for row in rows}
    assert {m: ends[m] for m in WANTED} == dict.fromkeys(WANTED, ("computed", "computed", "rpa", "done"))
    assert {m: ends[m] for m in NO_NEED} == dict.fromkeys(NO_NEED, ("computed", "absent", "ipa", "skipped"))
    assert {m: ends[m] for m in NEVER} == dict.fromkeys(NEVER, ("absent", "absent", "ipa", "skipped"))
    told = selector("why", NO_NEED[0], "--config", config)[1]
    assert "IPA computed first (" in told and "then the choice was made again with it: SC 0.7" in told
    # Both lines of models learned of the two labels.
    events = {e["message"] for e in status["events"]}
    assert status["updates"]["accepted"] + status["updates"]["rejected"] == 2, events
    assert selector("report", "--config", config, "--no-map")[0] == 0
    assert "reads IPA spectra" in (folder / "run" / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_given_spectra_are_read_and_exported_as_given(selector: Run, folder: Path, labels: dict[str, Label]) -> None:
    config = begin(selector, folder, "have")
    for material_id in (WANTED[0], *NO_NEED):
        write_ipa(folder / "known", labels[material_id])
    write_ipa(folder / "known", labels[NEVER[0]], settings_hash="another")
    (folder / "cifs" / f"{WANTED[0]}.cif").unlink()
    code, out, err = selector("add", folder / "cifs", "--ipa", folder / "known", "--config", config, "--json")
    # What is of no candidate is named, and the rest goes on.
    assert code == 1
    assert f"{WANTED[0]}.json: its material {WANTED[0]} is no candidate" in err
    assert "1 of 3 IPA spectra are of other settings than the campaign's" in err
    assert json.loads(out)["ipa_given"] == sorted((*NO_NEED, *NEVER))
    plan = json.loads(selector("plan", "--config", config, "--json")[1])
    assert {c["material_id"] for c in plan["choices"] if c["level"] == "rpa"} == {WANTED[1]}
    assert selector("export", folder / "out", "--config", config)[0] == 0
    rows = json.loads((folder / "out" / "materials.json").read_text(encoding="utf-8"))["materials"]
    assert {row["material_id"] for row in rows if row["ipa"] == "given"} == {*NO_NEED, *NEVER}
    spectra = [json.loads(x) for x in (folder / "out" / "spectra.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(s["level"], s["origin"]) for s in spectra} == {("ipa", "given")}


def test_spectra_that_can_not_be_used_are_refused(folder: Path, labels: dict[str, Label]) -> None:
    label = labels[WANTED[0]]
    flat = Spectrum(label.ipa.energy_ev, label.ipa.eps.real + 0j)
    write_ipa(folder / "known", label, spectra={"ipa": flat})
    have, skip = (
        CampaignConfig.model_validate({"campaign": "c", "folder": folder, "budget_cpu_h": 1.0, "ipa": ipa})
        for ipa in ("have", "skip")
    )
    with pytest.raises(SelectorError, match=rf"{label.material_id}.json: ipa: no absorption on 0-20 eV"):
        to_give(have, folder / "known")
    with pytest.raises(UsageError, match=r"--ipa \S+: campaign 'c' reads no IPA spectra \(ipa: skip\)"):
        to_give(skip, folder / "known")
