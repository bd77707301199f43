"""Where the recorded runs are."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parents[3] / "data" / "golden_qe_yambo"
REPLAYER = Path(__file__).with_name("replayer.py")
