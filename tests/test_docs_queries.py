"""The queries of docs/queries.md, run as they stand on a small campaign, against what the program itself says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo import monitoring

from fw_tasks.database import launchpad_for
from fw_tasks.launch import open_campaign
from selector import telling
from selector.campaign import Campaign
from selector.config import load_config
from selector.progress import errors_by_round
from selector.spectra import Spectrum

PAGE = (Path(__file__).parents[1] / "docs" / "queries.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


class Sent(monitoring.CommandListener):
    """The finds and aggregations that a client sends."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate"):
            self.commands.append(dict(event.command))

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


@pytest.fixture(scope="module")
def campaign(replayed: Path) -> Campaign:
    return open_campaign(load_config(replayed))


@pytest.fixture(scope="module")
def sent() -> Sent:
    return Sent()


@pytest.fixture(scope="module")
def said(campaign: Campaign, replayed: Path, sent: Sent) -> dict[str, Any]:
    """What every name of the page stands for after its blocks were run in order."""
    uri = launchpad_for(load_config(replayed)).host
    connect = BLOCKS[0].replace("mongodb://...", uri).replace("my-halides", "small")
    names: dict[str, Any] = {"LISTENER": sent}
    exec(connect.replace("MongoClient(", "MongoClient(event_listeners=[LISTENER], host="), names)
    for block in BLOCKS[1:]:
        exec(block, names)
    return names


def test_the_page_has_its_queries() -> None:
    assert len(BLOCKS) >= 14


def test_how_far_it_is(said: dict[str, Any], campaign: Campaign) -> None:
    totals = campaign.store.ledger.totals()
    assert said["counts"] == campaign.store.counts()
    assert said["state"] == "finished"
    assert said["why"]
    assert said["spent_cpu_h"] == pytest.approx(totals.spent_cpu_h)
    assert said["left_cpu_h"] == pytest.approx(totals.available_cpu_h + totals.audit_available_cpu_h)
    assert "materials left at IPA" in said["statement"]["sentence"]
    assert said["in_flight"] == []


def test_what_came_of_it(said: dict[str, Any], campaign: Campaign) -> None:
    done = sorted(campaign.store.candidates("done"), key=lambda c: c["sc_computed"])
    assert [c["material_id"] for c in said["lowest"]] == [c["material_id"] for c in done[:10]]
    assert said["failures"] == {"NotConverged": [c["material_id"] for c in campaign.store.candidates("failed")]}
    assert set(said["spectra"]) == {"ipa", "rpa"}
    kept: Spectrum = campaign.store.spectra()[said["material_id"]]["rpa"]
    assert np.array_equal(said["eps"], kept.eps)
    assert np.allclose(said["energy_ev"], kept.energy_ev)


def test_why_it_was_chosen(said: dict[str, Any], campaign: Campaign) -> None:
    told = telling.why(campaign.store, said["material_id"])
    assert [d["key"] for d in said["decisions"]] == [d["key"] for d in told["decisions"]]
    assert [kind for _, kind, _ in said["story"]] == ["dispatched", "recorded"]
    skipped = campaign.store.candidates("skipped")
    assert said["doubtful"][0]["decision"]["p_low"] == max(c["decision"]["p_low"] for c in skipped)


def test_how_good_the_predictions_are(said: dict[str, Any], campaign: Campaign) -> None:
    labels = campaign.store.outcomes(campaign.store.campaign()["settings_hash"])
    for row in errors_by_round(labels, campaign.store.model_history()):
        parts = [found for (model, _), found in said["errors"].items() if model == row["model_id"]]
        assert sum(n for n, _ in parts) == row["n"]
        assert sum(n * mae for n, mae in parts) / row["n"] == pytest.approx(row["mae"])
    assert [u[1] for u in said["updates"]] == [m["model_id"] for m in campaign.store.model_history()[1:]]


def test_where_the_cpu_hours_went(said: dict[str, Any], campaign: Campaign) -> None:
    spent = {purpose: cpu_h for purpose, (_, cpu_h) in said["charged"].items()}
    totals = campaign.store.ledger.totals()
    assert spent == pytest.approx({k: v for k, v in totals.by_purpose.items() if k in spent})
    assert sum(spent.values()) == pytest.approx(totals.spent_cpu_h)
    assert [e["settled_at"] for e in said["latest"]] == [e["time"] for e in campaign.store.recent_charges(10)][::-1]


def test_every_query_is_served_by_an_index(said: dict[str, Any], sent: Sent, campaign: Campaign) -> None:
    assert len(sent.commands) >= 12
    for command in sent.commands:
        collection = campaign.store.db[command.get("find") or command["aggregate"]]
        query = command.get("filter") or command["pipeline"][0]["$match"]
        plan = collection.find(query).explain()["queryPlanner"]["winningPlan"]
        assert "COLLSCAN" not in str(plan), (command, plan)
