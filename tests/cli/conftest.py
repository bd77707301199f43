"""Crystals whose labels are known, and a campaign that replays them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.labels import Label
from selector import localdb


@pytest.fixture
def labels(cheap_labels: list[Label]) -> list[Label]:
    """Those lowest in SC."""
    return cheap_labels[:14]


@pytest.fixture
def folder(tmp_path: Path, labels: list[Label]) -> Iterator[Path]:
    """A folder with the crystals in ``cifs``, and ``campaign.yaml``."""
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
