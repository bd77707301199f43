"""What explains itself: help and `selector doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selector import localdb
from tests.conftest import Run


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
