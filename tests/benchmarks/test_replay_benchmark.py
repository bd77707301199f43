"""The replay benchmark's own work: what it replays, that it goes on from a file, and what it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fw_tasks.rehearsal import Rehearsal, Rehearsed, rehearse_all
from models.labels import load_labels, read_manifest
from selector.replaying.figures import Outcome

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rehearsed(r: Rehearsal) -> Rehearsed:
    """Made up: the default removes 0.6, with IPA spectra 0.7, others 0.4, the oracle 0.9; rounds take twice as long."""
    removed = 0.4 if r.policy != "value_per_cost" else 0.7 if r.reads_ipa else 0.6
    outcome = Outcome(removed, 0.5, 1.0, 0.4 if r.in_rounds else 0.2)
    curve = np.linspace(0, 1, 51)
    return Rehearsed(outcome, Outcome(0.9, 0.8, 1.0, float("nan")), 1.1, ["a"], curve, curve, 3, 1, [0.06, 0.05, 0.04])


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import replay

    monkeypatch.setattr(replay, "asked", [], raising=False)

    def rehearse_all(labels: object, wanted: Iterable[Rehearsal], jobs: int) -> Iterator[tuple[Rehearsal, Rehearsed]]:
        for r in wanted:
            replay.asked.append(r)
            yield r, rehearsed(r)

    monkeypatch.setattr(replay, "rehearse_all", rehearse_all)
    return replay


def test_it_prints_what_came_of_it_and_goes_on_from_its_file(
    replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "replays.jsonl", tmp_path / "p.png"
    monkeypatch.setattr(
        sys, "argv", ["replay.py", "--replays", "3", "--jobs", "1", "--out", str(out), "--plot", str(plot)]
    )
    replay.main()
    first = capsys.readouterr().out
    assert len(replay.asked) == len(set(replay.asked)) == 3 * 4 * 3 + 3 + 5 * 3 + 3
    assert "| value_per_cost | 0.600 (0.600 to 0.600) | 0.667 (0.667 to 0.667) |" in first
    assert "value_per_cost minus random: +0.200 (+0.200 to +0.200), above zero in 100 % of the replays" in first
    assert "model updates: 9 accepted, 3 refused; share accepted 0.75 (0.75 to 0.75)" in first
    assert "first model 0.0600 (0.0600 to 0.0600), last 0.0400" in first
    assert "minus value_per_cost by structure alone: +0.100 (+0.100 to +0.100)" in first
    assert "wall-clock time in rounds / without a barrier: 2.00" in first
    assert plot.stat().st_size > 1000
    replay.main()
    assert len(replay.asked) == 3 * 4 * 3 + 3 + 5 * 3 + 3, "nothing is replayed twice"
    assert capsys.readouterr().out == first


def test_kept_replays_can_be_repeated_and_compared(
    replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import replay_rows

    out = tmp_path / "replays.jsonl.gz"
    every = [Rehearsal(seed=seed) for seed in range(4)]
    for r in every:
        replay_rows.append(out, r, rehearsed(r))

    def again(labels: object, wanted: Iterable[Rehearsal], jobs: int) -> Iterator[tuple[Rehearsal, Rehearsed]]:
        yield from ((r, replace(rehearsed(r), returned=changed.get(r.seed, ["a"]))) for r in wanted)

    changed: dict[int, list[str]] = {}
    monkeypatch.setattr(replay_rows, "rehearse_all", again)
    monkeypatch.setattr(sys, "argv", ["replay.py", "--out", str(out), "--check", "3"])
    replay.main()
    assert "3 of 3 replays came out as they did" in capsys.readouterr().out
    changed[2] = ["b"]
    monkeypatch.setattr(sys, "argv", ["replay.py", "--out", str(out), "--check", "9"])
    with pytest.raises(SystemExit, match="1"):
        replay.main()
    said = capsys.readouterr().out
    assert "3 of 4 replays came out as they did" in said and "seed=2" in said
    monkeypatch.setattr(sys, "argv", ["replay.py", "--out", str(tmp_path / "none.jsonl"), "--check", "1"])
    with pytest.raises(SystemExit, match="name a file of replays"):
        replay.main()


def test_what_is_read_of_a_kept_replay_is_what_was_written(replay, tmp_path: Path) -> None:
    import replay_rows

    r = Rehearsal("cheapest", seed=3, in_rounds=True)
    for out in (tmp_path / "replays.jsonl", tmp_path / "replays.jsonl.gz"):
        for seed in (3, 4):
            replay_rows.append(out, replace(r, seed=seed), rehearsed(r))
        kept = replay_rows.read(out)
        assert list(kept) == [r, replace(r, seed=4)]
        assert kept[r].curve == pytest.approx(rehearsed(r).curve, abs=1e-5)
        assert (kept[r].outcome, kept[r].returned) == (rehearsed(r).outcome, ["a"])
        assert kept[r].unseen_mae == rehearsed(r).unseen_mae


@pytest.mark.slow
def test_the_replays_behind_the_readme_come_out_again() -> None:
    """The first of the default's, and the first of `cheapest`: decisions that change want the figures made anew."""
    from replay import MANIFEST
    from replay_rows import read

    kept = read(BENCHMARKS / "data" / "replays.jsonl.gz")
    default, cheapest = (Rehearsal(policy, warm_start=20, resampled=True) for policy in ("value_per_cost", "cheapest"))
    again = dict(rehearse_all(load_labels(ids=read_manifest(MANIFEST)), [default, cheapest]))
    assert again[cheapest].returned == kept[cheapest].returned
    assert again[cheapest].outcome.cost_cpu_h == pytest.approx(kept[cheapest].outcome.cost_cpu_h, rel=1e-9)
    # Models round otherwise on another processor, which may turn a choice between two that are all but equal.
    assert again[default].outcome.error_removed == pytest.approx(kept[default].outcome.error_removed, abs=0.03)
    assert len(set(again[default].returned) ^ set(kept[default].returned)) <= 0.1 * len(kept[default].returned)
