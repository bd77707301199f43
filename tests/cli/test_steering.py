"""What a person does to a campaign while it goes on, as it is typed, and what the campaign answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fw_tasks.launch import open_campaign
from models.labels import Label
from selector import localdb
from selector.campaign import Campaign
from selector.config import load_config
from tests.conftest import Run


@pytest.fixture
def labels(cheap_labels: list[Label]) -> list[Label]:
    return cheap_labels[:5]


@pytest.fixture
def config(selector: Run, tmp_path: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A campaign of five candidates, nothing dispatched yet; the commands find it by themselves."""
    (tmp_path / "cifs").mkdir()
    for label in labels:
        label.structure.to(str(tmp_path / "cifs" / f"{label.material_id}.cif"))
    file = tmp_path / "campaign.yaml"
    file.write_text(
        "campaign: steered\nfolder: run\nbudget_cpu_h: 0.4\naudit_fraction: 0.1\nengine: {name: replay}\n"
        "policy: {threshold: 0.8, random_share: 0}\nmax_in_flight: 2\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("SELECTOR_CONFIG", str(file))
    assert selector("init", file)[0] == 0
    assert selector("add", tmp_path / "cifs")[0] == 0
    yield file
    localdb.stop(tmp_path / "run" / "database" / "selector.sqlite")


def opened(config: Path) -> Campaign:
    return open_campaign(load_config(config))


def said(selector: Run, *arguments: object) -> str:
    """The one line that a command answers."""
    code, out, err = selector(*arguments)
    assert code == 0, err
    (line,) = out.strip().splitlines()
    return line


def refused(selector: Run, *arguments: object) -> str:
    """The one line with which a command refuses."""
    code, _, err = selector(*arguments)
    assert code in (1, 2)
    (line,) = err.strip().splitlines()
    return line


@pytest.mark.slow
def test_stop_holds_everything_back_until_resume(selector: Run, config: Path) -> None:
    assert "is running" in refused(selector, "resume")
    assert "stopped" in said(selector, "stop", "--why", "the cluster is down")
    assert "stopped already" in refused(selector, "stop")
    campaign = opened(config)
    assert campaign.step().dispatched == 0
    status = json.loads(selector("status", "--json")[1])
    assert (status["state"], status["stop_reason"], status["expected_end"]) == ("stopped", "the cluster is down", None)
    # A run of a stopped campaign with nothing in flight ends.
    code, out, err = selector("run", "--workers", 1)
    assert (code, "steered' stopped" in out) == (0, True), err
    assert "running again" in said(selector, "resume")
    assert opened(config).step().dispatched == 2
    kinds = [e["kind"] for e in campaign.store.events()]
    assert kinds.count("stopped") == kinds.count("resumed") == 1


def test_budget_grows_the_audits_share_with_it(selector: Run, config: Path) -> None:
    line = said(selector, "budget", "add", "0.6")
    assert "0.6 CPU-h added, 1 in all, 0.9000 free and 0.1000 for the audit" in line
    # The file says what the campaign began with, and is still the campaign's.
    assert opened(config).store.ledger.totals().budget_cpu_h == pytest.approx(1.0)
    for wrong in ("nan", "0", "inf"):
        assert "budget" in refused(selector, "budget", "add", wrong)
    assert "budget" in refused(selector, "budget", "add", "--", "-1")
    assert opened(config).store.ledger.totals().budget_cpu_h == pytest.approx(1.0)


@pytest.mark.slow
def test_pin_goes_first_and_veto_never(selector: Run, config: Path, labels: list[Label]) -> None:
    plan = json.loads(selector("plan", "--json")[1])["choices"]
    last, first = plan[-1]["material_id"], plan[0]["material_id"]
    assert "pinned" in said(selector, "pin", last)
    assert "vetoed" in said(selector, "veto", first)
    changed = json.loads(selector("plan", "--json")[1])["choices"]
    assert (changed[0]["material_id"], changed[0]["reason"]) == (last, "pinned by hand")
    assert (changed[-1]["material_id"], changed[-1]["level"]) == (first, "ipa")
    words = selector("why", first)[1]
    assert "Vetoed: it never gets RPA." in words and "By hand" in words
    assert "Pinned: it goes before all others." in selector("why", last)[1]
    assert "no longer vetoed" in said(selector, "veto", first, "--off")
    assert "no longer pinned" in said(selector, "pin", last, "--off")
    again = json.loads(selector("plan", "--json")[1])["choices"]
    assert [c["material_id"] for c in again] == [c["material_id"] for c in plan]

    campaign = opened(config)
    assert campaign.step().dispatched == 2
    out = campaign.store.in_flight()[0]["material_id"]
    assert f"'{out}' is running, not pending" in refused(selector, "veto", out)
    for command in ("pin", "veto", "why"):
        assert "material 'nonesuch' is not in campaign 'steered'" in refused(selector, command, "nonesuch")


def test_deadline_and_max_in_flight_follow_the_file_and_nothing_else_does(selector: Run, config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("max_in_flight: 2", "max_in_flight: 3\ndeadline: 2001-01-01T00:00Z\nlost_after_h: 2"),
        encoding="utf-8",
    )
    status = json.loads(selector("status", "--json")[1])
    assert (status["max_in_flight"], status["deadline"][:10]) == (3, "2001-01-01")
    assert status["expected_end"]["by"] == "deadline"
    messages = [e["message"] for e in opened(config).store.events() if e["kind"] == "changed"]
    assert sorted(message.split(":")[0] for message in messages) == ["deadline", "lost_after_h", "max_in_flight"]
    config.write_text(text.replace("max_in_flight: 2", "max_in_flight: 0"), encoding="utf-8")
    assert "max_in_flight" in refused(selector, "status")
    config.write_text(text.replace("threshold: 0.8", "threshold: 0.7"), encoding="utf-8")
    assert "policy" in refused(selector, "status")


def test_status_names_what_is_in_flight_and_plan_what_the_audit_pays(selector: Run, config: Path) -> None:
    plan = json.loads(selector("plan", "--bound", "0.5", "--json")[1])["audit"]
    left = plan["n_members"]
    assert 0 <= plan["n_affordable"] <= left
    assert plan["pot_cpu_h"] == pytest.approx(0.04)
    assert "audit" in selector("plan")[1]
    opened(config).step()
    status = json.loads(selector("status", "--json")[1])
    assert [c["attempt"] for c in status["in_flight"]] == [1, 1]
    assert all(0.0 <= c["age_s"] < 600.0 and c["fw_id"] for c in status["in_flight"])
    assert status["reserved_cpu_h"] == pytest.approx(sum(c["reserved_cpu_h"] for c in status["in_flight"]), abs=1e-5)
    assert status["bound"]["kind"] == "provisional"
    text = selector("status")[1]
    assert "2 of at most 2" in text and "Provisional" in text


@pytest.mark.slow
def test_why_tells_a_finished_campaign_in_words(selector: Run, replayed: Path) -> None:
    store = opened(replayed).store
    status = json.loads(selector("status", "--config", replayed, "--json")[1])
    assert status["bound"]["kind"] == "final"
    assert status["bound"]["sentence"] in " ".join(selector("status", "--config", replayed)[1].split())
    assert status["updates"]["accepted"] + status["updates"]["rejected"] == 1
    assert sum(e["n"] for e in status["errors"]) == status["counts"]["done"]
    assert sum(status["by_purpose"].values()) == pytest.approx(status["spent_cpu_h"])

    by_kind: dict[str, dict[str, Any]] = {"audit": {}, "lot": {}, "policy": {}, "failed": {}, "skipped": {}}
    for c in store.candidates("done", "failed", "skipped"):
        d = c["decision"]
        kind = c["status"] if c["status"] != "done" else "lot" if d["random_draw"] else "policy"
        by_kind["audit" if c["status"] == "done" and d["purpose"] == "audit" else kind] = c
    for kind, words in (
        ("audit", ["drawn for the closing audit", "Before that", ": IPA: "]),
        ("lot", ["Drawn by lot with probability 0."]),
        ("policy", ["Audit probability 0", "policy value_per_cost: RPA, attempt 1"]),
        ("failed", ["given up", "NotConverged: the density does not converge"]),
    ):
        c = by_kind[kind]
        assert c, f"the campaign has no material of kind {kind}"
        d = c["decision"]
        text = selector("why", c["material_id"], "--config", replayed)[1]
        for word in [
            *words,
            c["formula"],
            d["model_id"],
            d["key"],
            f"firework {d['fw_id']}",
            f"90 % interval {d['sc_lo']:.3f} to {d['sc_hi']:.3f}",
            f"P(SC < 0.8) = {d['p_low']:.2f}",
            f"{d['cost_predicted_cpu_h']:.4f} CPU-h predicted, {d['reserved_cpu_h']:.4f} reserved",
        ]:
            assert word in text, (kind, word, text)
    told = json.loads(selector("why", by_kind["audit"]["material_id"], "--config", replayed, "--json")[1])
    assert [d["level"] for d in told["decisions"]] == ["ipa", "rpa"]
    assert told["decisions"][-1]["outcome"]["status"] == "done"
    assert "rejected" in selector("why", "broken", "--config", replayed)[1]
