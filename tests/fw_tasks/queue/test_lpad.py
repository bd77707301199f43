"""What FireWorks' own tools show of a campaign: names, tags, and metadata by which to query."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fireworks import LaunchPad

from fw_tasks.engines import get_engine
from fw_tasks.workflows import FireWorksDispatcher, index_keys
from models.labels import load_labels
from selector.candidates import Candidate
from selector.protocols import Job


@pytest.fixture(scope="module")
def shown(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LaunchPad, Path]]:
    """A LaunchPad with what a campaign adds to it, and the file by which lpad finds it."""
    folder, name = tmp_path_factory.mktemp("lpad"), f"test_{uuid.uuid4().hex[:12]}"
    launchpad = LaunchPad(host=mongo_uri, uri_mode=True, name=name, logdir=None, strm_lvl="ERROR")
    launchpad.reset("", require_password=False)
    index_keys(launchpad)
    dispatcher = FireWorksDispatcher(launchpad, folder, get_engine("replay"))
    for i, label in enumerate(sorted(load_labels(), key=lambda label: label.cpu_s)[:3]):
        structure = Candidate(label.material_id, label.structure, "").to_dict()["structure"]
        dispatcher.submit(
            Job(
                campaign="halides", key=f"k{i}", material_id=label.material_id, formula=label.formula,
                structure=structure, level="rpa", attempt=1, engine={"name": "replay", "preset": None, "options": {}},
                cores=1, time_limit_s=60.0, workdir=str(folder / label.material_id), decision={"purpose": "audit"},
            )
        )  # fmt: skip
    dispatcher.submit_learning("halides", "learn-1")
    file = folder / "my_launchpad.yaml"
    file.write_text(json.dumps({"host": mongo_uri, "uri_mode": True, "name": name}), encoding="utf-8")
    yield launchpad, file
    launchpad.connection.drop_database(name)


def lpad(file: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "fireworks.scripts.lpad_run", "-l", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=file.parent)
    return json.loads(done.stdout)


def as_list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def test_workflows_are_found_by_their_metadata(shown: tuple[LaunchPad, Path]) -> None:
    launchpad, file = shown
    one = launchpad.workflows.find_one({"metadata.level": "rpa"})["metadata"]
    assert set(one) == {
        "campaign", "selector_workflow", "material_id", "formula", "level", "attempt", "engine", "purpose", "elements",
        "tags",
    }  # fmt: skip
    assert one["purpose"] == "audit"
    assert one["tags"] == ["halides", "rpa", one["formula"]]
    query = {"metadata.campaign": "halides", "metadata.material_id": one["material_id"]}
    (found,) = as_list(lpad(file, "get_wflows", "-q", json.dumps(query), "-d", "more"))
    assert found["name"].startswith(f"{one['formula']} {one['material_id']} rpa")
    assert sorted(name.split()[0] for name in found["states"]) == ["advance", "compute", "record"]
    by_tag = lpad(file, "get_wflows", "-q", json.dumps({"metadata.tags": "learn"}), "-d", "more")
    assert as_list(by_tag)[0]["name"].startswith("fine-tune halides")
    n_with = launchpad.workflows.count_documents({"metadata.elements": one["elements"][0]})
    assert (
        lpad(file, "get_wflows", "-q", json.dumps({"metadata.elements": one["elements"][0]}), "-d", "count") == n_with
    )


def test_fireworks_are_found_by_category(shown: tuple[LaunchPad, Path]) -> None:
    _, file = shown
    query = {"spec.campaign": "halides", "spec._category": "rpa", "state": "READY"}
    assert lpad(file, "get_fws", "-q", json.dumps(query), "-d", "count") == 3


def test_the_web_gui_shows_it(shown: tuple[LaunchPad, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    launchpad, file = shown
    monkeypatch.chdir(file.parent)
    gui = importlib.import_module("fireworks.flask_site.app")
    monkeypatch.setattr(gui.app, "lp", launchpad, raising=False)
    monkeypatch.setattr(gui.app, "BASE_Q", {}, raising=False)
    monkeypatch.setattr(gui.app, "BASE_Q_WF", {}, raising=False)
    client = gui.app.test_client()
    workflow = launchpad.workflows.find_one({"metadata.level": "rpa"})
    fw_id = workflow["nodes"][0]
    pages = ["/", f"/fw/{fw_id}", f"/wf/{fw_id}", "/fw/", "/wf/", "/fw/READY/", "/wf/READY/", "/wf/metadata/level/rpa/"]
    pages += ["/report/", "/report/days/", "/dashboard/"]
    shown_pages = {page: client.get(page, follow_redirects=True) for page in pages}
    assert {page: answer.status_code for page, answer in shown_pages.items()} == dict.fromkeys(pages, 200)
    assert workflow["name"] in shown_pages["/wf/metadata/level/rpa/"].text
    assert "fine-tune" not in shown_pages["/wf/metadata/level/rpa/"].text


def test_the_report_counts_by_day(shown: tuple[LaunchPad, Path]) -> None:
    launchpad, file = shown
    command = [sys.executable, "-m", "fireworks.scripts.lpad_run", "-l", str(file), "report", "-i", "days"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=file.parent)
    today = launchpad.fireworks.find_one()["created_on"][:10]
    assert today in done.stdout
    n = {state: launchpad.fireworks.count_documents({"state": state}) for state in ("READY", "WAITING")}
    assert all(f"{state} : {count}\n" in done.stdout for state, count in n.items()), done.stdout
