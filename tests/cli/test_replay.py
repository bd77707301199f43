"""`selector replay` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.labels import read_manifest
from tests.conftest import Run

MANIFEST = Path(__file__).parents[2] / "benchmarks" / "manifests" / "2026-11-21-138.json"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty materials, so that a replay takes a second."""
    path = tmp_path_factory.mktemp("replay") / "some.json"
    path.write_text(json.dumps(read_manifest(MANIFEST)[::4][:30]))
    return path


def test_policies_stand_beside_the_baselines_and_the_oracle(selector: Run, manifest: Path, tmp_path: Path) -> None:
    options = ("--manifest", manifest, "--policy", "threshold", "--seeds", 2, "--jobs", 1, "--budget-fraction", 0.4)
    code, out, _ = selector("replay", *options, "--warm-start", 6, "--json", "-", "--plot", tmp_path / "p.svg")
    assert code == 0
    found = json.loads(out)
    assert [row["policy"] for row in found["policies"]] == ["threshold", "cheapest", "random", "oracle"]
    oracle = found["policies"][-1]
    for row in found["policies"]:
        for name in ("error_removed", "recall", "cost_cpu_h"):
            assert row[name]["lo"] <= row[name]["mean"] + 1e-12
            assert row[name]["mean"] <= row[name]["hi"] + 1e-12
        assert 0.0 <= row["error_removed"]["mean"] <= oracle["error_removed"]["mean"]
    assert (found["labels"], found["seeds"], found["warm_start"], found["ipa"]) == (30, 2, 6, "skip")
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_with_ipa_spectra_at_hand(selector: Run, manifest: Path) -> None:
    options = ("--manifest", manifest, "--policy", "cheapest", "--seeds", 1, "--jobs", 1)
    code, out, _ = selector("replay", *options, "--ipa", "have")
    assert code == 0
    assert "30 labels, IPA spectra at hand" in " ".join(out.split())


@pytest.mark.slow
def test_seeds_in_processes_of_their_own_give_the_same(selector: Run, manifest: Path, tmp_path: Path) -> None:
    said = []
    for jobs in (1, 2):
        options = ("--manifest", manifest, "--policy", "cheapest", "--seeds", 2, "--jobs", jobs, "--resample")
        code, out, _ = selector("replay", *options, "--json", tmp_path / f"{jobs}.json")
        assert code == 0
        assert "random" in out
        said.append(json.loads((tmp_path / f"{jobs}.json").read_text()))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", 0), "--threshold 0 is not above 0"),
        (("--budget-fraction", 1.5), "--budget-fraction 1.5 is not above 0 and at most 1"),
        (("--policy", "best"), "there is no policy 'best'; choose one of value_per_cost"),
        (("--plot", "p.gif"), "p.gif: unknown kind of picture"),
        (("--labels", "nowhere"), "nowhere: no such folder"),
        (("--pretrained", "nothing.safetensors", "--jobs", 1), "nothing.safetensors: no such file"),
        (("--pretrained", "mine.safetensors", "--ipa", "have"), "leave out --pretrained, or --ipa have"),
        (("--warm-start", 40, "--jobs", 1), "--warm-start 40 leaves none of 30 materials"),
    ],
)
def test_mistakes_are_named(
    selector: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = selector("replay", "--manifest", manifest, "--seeds", 1, *options)
    assert code == 2
    assert message in err


def test_weights_that_know_the_labels_are_refused(selector: Run, manifest: Path) -> None:
    shipped = Path(__file__).parents[2] / "models" / "pretrained" / "sc-default.safetensors"
    code, _, err = selector("replay", "--manifest", manifest, "--seeds", 1, "--jobs", 1, "--pretrained", shipped)
    assert code == 1
    assert "has learned from" in err
