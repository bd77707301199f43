"""What commands do that stay while the database goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect

from fw_tasks import launch
from selector import localdb
from selector.cli import reaching
from selector.cli.reaching import Reached
from selector.config import CampaignConfig, load_config

Local = tuple[CampaignConfig, Path]


@pytest.fixture
def local(tmp_path: Path, selector: Callable[..., tuple[int, str, str]]) -> Iterator[Local]:
    file = tmp_path / "campaign.yaml"
    file.write_text("campaign: reached\nfolder: run\nbudget_cpu_h: 1\nengine: {name: replay}\n", encoding="utf-8")
    assert selector("init", file)[0] == 0
    database = tmp_path / "run" / "database" / "selector.sqlite"
    yield load_config(file), database
    localdb.stop(database)


def test_a_question_interrupted_by_the_database_s_death_is_put_again(
    local: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = local
    reached = Reached(config)
    deaths = 0

    def question(campaign: object) -> int:
        nonlocal deaths
        if deaths < 2:
            pid = localdb.status(file)["pid"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            deaths += 1
            raise AutoReconnect("connection closed")
        return deaths

    assert reached.ask(question) is None
    assert reached.insist(question) == 2
    assert capsys.readouterr().err.count("connecting again until it does") == 1
    assert reached.insist(lambda campaign: campaign.config.campaign) == "reached"


def test_an_opening_that_meets_a_dying_local_database_is_repeated(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "RECONNECT_S", 0.0)
    config, _ = local
    opened, real = [], launch.open_campaign

    def dies_once(given: CampaignConfig) -> object:
        opened.append(given)
        if len(opened) == 1:
            raise AutoReconnect("connection refused")
        return real(given)

    monkeypatch.setattr(launch, "open_campaign", dies_once)
    assert Reached(config).ask(lambda campaign: campaign.config.campaign) == "reached"
    assert len(opened) == 2
    # An address that does not answer may be a mistake: that is said, not waited for.
    elsewhere = config.model_copy(
        update={"database": type(config.database)(uri="mongodb://localhost:1/?serverSelectionTimeoutMS=100")}
    )
    with pytest.raises(AutoReconnect):
        Reached(elsewhere)
