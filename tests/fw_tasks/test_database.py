"""A campaign on a MongoDB with users and rights: what it asks for, what it says when refused, what it never shows."""

from __future__ import annotations

import functools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymongo
import pytest
from fireworks import FWorker, LaunchPad
from fireworks.core.rocket_launcher import launch_rocket
from mongod import ACTIONS, Mongod

from fw_tasks.database import connect, launchpad_for
from fw_tasks.launch import campaign_on, create_campaign, open_campaign
from models.labels import load_labels
from selector.candidates import read_candidates
from selector.config import CampaignConfig, load_config
from selector.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"
USER, PASSWORD = "selector", "p@ss/w:rd?%"
TEXT = (
    "campaign: c\nfolder: run\nbudget_cpu_h: 1\nengine: {name: replay}\naudit_fraction: 0\n"
    "policy: {name: cheapest, random_share: 0}\n"
)


@pytest.fixture
def mongod(mongo_uri: str) -> Iterator[Mongod]:
    server = Mongod(mongo_uri, USER, PASSWORD)
    yield server
    server.close()


@pytest.fixture
def configured(
    tmp_path: Path, mongod: Mongod, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Write a campaign's file whose database is behind that door; its database goes afterwards."""
    name = f"test_{abs(hash(tmp_path)):x}"[:20]
    monkeypatch.setenv("TEST_USER", USER)
    monkeypatch.setenv("TEST_PASSWORD", PASSWORD)
    template = f"mongodb://${{TEST_USER}}:${{TEST_PASSWORD}}@127.0.0.1:{mongod.port}/?authSource=admin"

    def write(uri: str = template, **database: str) -> Path:
        file = tmp_path / "campaign.yaml"
        given = {"uri": uri, "name": name, **database}
        file.write_text(TEXT + f"database: {json.dumps({k: v for k, v in given.items() if v})}\n", encoding="utf-8")
        return file

    yield write
    with pymongo.MongoClient(mongo_uri) as client:
        client.drop_database(name)


read_once = functools.cache(load_labels)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine reads the labels that ship once, not for every rocket."""
    monkeypatch.setattr("fw_tasks.engines.replay.load_labels", read_once)


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two crystals with known labels."""
    folder = tmp_path_factory.mktemp("crystals")
    labels = sorted(read_once(), key=lambda label: label.cpu_s)[:2]
    for label in labels:
        label.structure.to(str(folder / f"{label.material_id}.cif"))
    return sorted(folder.glob("*.cif"))


def launch_all(launchpad: LaunchPad, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch the campaign's rockets until there is none left."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    while launch_rocket(launchpad, FWorker(query={"spec.campaign": "c"}), strm_lvl="DEBUG"):
        pass


def test_user_and_password_come_from_the_environment_as_they_are(configured: Any, mongod: Mongod) -> None:
    launchpad = launchpad_for(load_config(configured()))
    assert launchpad.fireworks.count_documents({}) == 0
    assert {c["$db"] for c in mongod.commands if "saslStart" in c} == {"admin"}


def test_they_come_from_a_file_that_others_cannot_read(configured: Any, mongod: Mongod, tmp_path: Path) -> None:
    secret = tmp_path / "mongodb-uri"
    secret.write_text(f"mongodb://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{mongod.port}/\n", encoding="utf-8")
    secret.chmod(0o644)
    file = configured(uri="", uri_file="mongodb-uri")
    with pytest.raises(UsageError, match="others may read") as error:
        connect(load_config(file))
    assert "chmod 600" in str(error.value)
    secret.chmod(0o600)
    assert connect(load_config(file)).db.list_collection_names() == []
    secret.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(file).database_uri()


def test_a_process_has_one_connection_and_states_what_it_asks_for(configured: Any, mongod: Mongod) -> None:
    config = load_config(configured())
    campaign = create_campaign(config, launchpad_for(config))
    again = open_campaign(config)
    assert connect(config) is connect(config)
    assert again.store.db.client is campaign.store.db.client
    own = [c for c in mongod.commands if next(iter(c)) in ("insert", "update", "findAndModify")]
    assert own
    assert {c["writeConcern"]["w"] for c in own} == {"majority"}
    assert all("txnNumber" in c for c in own if c.get("update") != "candidates")
    reads = [c for c in mongod.commands if "find" in c]
    assert reads
    assert {c["readConcern"]["level"] for c in reads} == {"majority"}


def test_indexes_are_created_once(configured: Any, mongod: Mongod) -> None:
    config = load_config(configured())
    create_campaign(config, launchpad_for(config))
    assert any("createIndexes" in c for c in mongod.commands)
    mongod.commands.clear()
    launchpad_for(config)
    open_campaign(config)
    assert not [c for c in mongod.commands if "createIndexes" in c]


def role() -> set[str]:
    """The actions of the role in docs/mongodb.md."""
    text = (DOCS / "mongodb.md").read_text(encoding="utf-8")
    found = re.search(r"actions: \[(.*?)\]", text, re.DOTALL)
    assert found
    return set(re.findall(r'"(\w+)"', found[1]))


def test_the_documented_role_is_enough_for_a_campaign_and_no_more_than_it_needs(
    configured: Any, mongod: Mongod, tmp_path: Path, crystals: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mongod.allowed = role()
    config = load_config(configured())
    create_campaign(config, launchpad_for(config))
    campaign = open_campaign(config)
    campaign.add(*read_candidates(crystals))
    campaign.step()
    launch_all(connect(config), tmp_path / "launch", monkeypatch)
    assert campaign.store.count("done") > 0
    used = set().union(*(ACTIONS.get(next(iter(c)), set()) for c in mongod.commands))
    assert role() - used <= {"remove", "dropIndex", "listCollections"}  # for what went wrong, and the first release


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_one_line(configured: Any, selector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = configured()
    monkeypatch.setenv("TEST_PASSWORD", "wr0ng")
    code, out, err = selector("init", file)
    assert code == 1
    assert err.count("\n") == 1
    assert "refuses user or password" in err
    assert "127.0.0.1" in err
    assert "wr0ng" not in out + err
    assert USER not in err.replace("selector: error", "")


def test_a_wrong_auth_source_is_named_too(configured: Any, mongod: Mongod, selector: Any) -> None:
    mongod.auth_db = "people"
    code, _, err = selector("init", configured())
    assert (code, "authSource" in err) == (1, True)


def test_a_read_only_database_is_one_line(configured: Any, mongod: Mongod, selector: Any) -> None:
    file = configured()
    config = load_config(file)
    create_campaign(config, launchpad_for(config))
    mongod.read_only = True
    code, _, err = selector("step", "--config", file)
    assert (code, err.count("\n")) == (1, 1)
    assert "takes no writes (NotWritablePrimary)" in err


def test_a_missing_right_is_named_with_the_role(configured: Any, mongod: Mongod, selector: Any) -> None:
    mongod.allowed = {"find", "listIndexes"}
    code, _, err = selector("init", configured())
    assert (code, err.count("\n")) == (1, 1)
    assert re.search(r"does not allow its user this \((update|createIndexes) on 'test_\w+'\)", err)
    assert "docs/mongodb.md" in err


@pytest.mark.slow
def test_a_host_that_drops_everything_is_named_within_ten_seconds(configured: Any, selector: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It accepts, and never says a word.
        port = silent.getsockname()[1]
        file = configured(uri=f"mongodb://{USER}:x@127.0.0.1:{port}/")
        started = time.monotonic()
        code, _, err = selector("status", "--config", file)
        took_s = time.monotonic() - started
    assert (code, err.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port}" in err
    assert took_s < 12.0


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("mongodb://me:s3cret/x@h/", "percent-encode"),
        ("mongodb://me:s3cret@x@h/", "percent-encode"),
        ("mongodb://me:s3cret@h:port/", "percent-encode"),
        ("mongodb://me:s3cret@h/?w=1", "w=1"),
        ("mongodb://me:s3cret@h/?readPreference=secondary", "readPreference"),
        ("postgres://me:s3cret@h/", "neither"),
    ],
)
def test_a_broken_uri_is_named_without_its_password(configured: Any, selector: Any, uri: str, word: str) -> None:
    code, out, err = selector("status", "--config", configured(uri=uri))
    assert (code, err.count("\n")) == (2, 1)
    assert "database.uri" in err
    assert word in err
    assert "s3cret" not in out + err


def test_a_uri_in_the_wrong_place_is_not_repeated(tmp_path: Path, selector: Any) -> None:
    file = tmp_path / "campaign.yaml"
    for database in ("'mongodb://me:s3cret@h/'", "{uri: ['mongodb://me:s3cret@h/']}", "{uri: x, uri_file: s3cret}"):
        file.write_text(TEXT + f"database: {database}\n", encoding="utf-8")
        code, out, err = selector("status", "--config", file)
        assert code == 2
        assert "s3cret" not in out + err


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_the_password_is_nowhere(
    configured: Any, mongo_uri: str, tmp_path: Path, crystals: list[Path], demo_crystals: Path, selector: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("DEBUG")
    file = configured()
    assert selector("init", file)[0] == 0
    config = load_config(file)
    # One of them has no known label: its rocket fails, and FireWorks keeps the traceback.
    strange = min(demo_crystals.glob("*.cif"))
    shown = [*selector("add", "--config", file, crystals[0], strange, "--json")]
    shown += selector("step", "--config", file, "--json")
    launchpad = connect(config)
    launch_all(launchpad, tmp_path / "launch", monkeypatch)
    shown += capsys.readouterr()
    assert "Traceback" in str(shown)
    material = next(iter(campaign_on(launchpad, "c").store.candidates()))["material_id"]
    for arguments in (
        ["status"], ["status", "--json"], ["report", "--no-map"], ["report", "--no-map", "--json"],
        ["export", tmp_path / "out"], ["doctor"], ["recover", "--json"], ["why", material],
        ["db", "export", tmp_path / "dump"],
    ):  # fmt: skip
        shown += selector(*arguments, "--config", file)[1:]
    shown += [caplog.text, repr(launchpad), json.dumps(launchpad.to_dict(), default=str), str(config.public())]
    launchpad.to_file(str(tmp_path / "launchpad.yaml"))
    with pymongo.MongoClient(mongo_uri) as client:
        database = client[config.database.name]
        shown += [str(document) for name in database.list_collection_names() for document in database[name].find()]
    files = [f for f in tmp_path.rglob("*") if f.is_file() and f != file]
    assert {"launchpad.yaml", "decisions.csv", "job.json"} <= {f.name for f in files}
    needles = [PASSWORD, quote(PASSWORD, safe=""), "p@ss", "p%40ss"]
    assert not [(n, s[:80]) for s in map(str, shown) for n in needles if n in s]
    assert not [f for f in files for n in needles if n.encode() in f.read_bytes()]


def test_a_campaign_without_secrets_keeps_its_address(tmp_path: Path) -> None:
    config = CampaignConfig.model_validate({"campaign": "c", "folder": tmp_path, "budget_cpu_h": 1.0})
    assert config.database_uri() is None
