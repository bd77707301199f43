"""Lets these tests share their stages: `import rehearsal`, and the record that the report's tests tell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from selector.report import CampaignRecord


@pytest.fixture(scope="module")
def record() -> CampaignRecord:
    """A finished campaign, fabricated from real labels."""
    from fabricated import N_COMPUTED, N_KEPT, fabricate, real_labels

    return fabricate(real_labels(N_COMPUTED + N_KEPT + 1))


@pytest.fixture(scope="module")
def fresh(record: CampaignRecord) -> CampaignRecord:
    """The same campaign before anything was predicted or computed."""
    from fabricated import before_anything

    return before_anything(record)
