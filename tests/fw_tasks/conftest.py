"""Tests may import the helpers that lie beside them, and those of the campaign's own tests (`rehearsal`)."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parents[1] / "selector", Path(__file__).parent):
    sys.path.insert(0, str(folder))
