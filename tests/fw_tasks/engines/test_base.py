"""The protocol's own classes."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from fw_tasks.engines import base
from fw_tasks.engines.base import Calculation, EngineError
from selector.spectra import Spectrum


def test_which_failures_may_be_tried_again() -> None:
    classes = [c for _, c in inspect.getmembers(base, inspect.isclass) if issubclass(c, EngineError)]
    assert {c.__name__ for c in classes if c.retry} == {"NotConverged", "OutOfMemory", "TimedOut"}
    assert base.TimedOut("too long", 12.0).wall_s == 12.0
    assert base.TimedOut("too long").reason == "TimedOut"


def test_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = np.linspace(0.0, 25.0, 300)
    ipa = Spectrum(energy, (1.0 + 1j * energy * np.ones((3, 1))).astype(complex))
    rpa = Spectrum(energy, (1.0 + 0.5j * energy * np.ones((3, 1))).astype(complex))
    one = Calculation({"ipa": ipa, "rpa": rpa}, 1.0, 2.0, 3.0, "gpaw", "0", {"name": "s"}, "abc", {"n_g": 5})
    path = tmp_path / "result.npz"
    one.save(path)
    again = Calculation.load(path)
    assert again.sc == pytest.approx(one.sc, abs=1e-6) == pytest.approx(0.5)
    assert (again.gap_ev, again.cpu_s, again.wall_s, again.details) == (1.0, 2.0, 3.0, {"n_g": 5})

    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        one.save(tmp_path / "second.npz")
    assert not (tmp_path / "second.npz").exists()
