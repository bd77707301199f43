"""The configuration says file and key, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from selector.config import load_config
from selector.errors import UsageError

GOOD = "campaign: halides\nfolder: run\nbudget_cpu_h: 2.5\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "campaign.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    text = GOOD + "ipa: have\npredictor: {checkpoint: w.safetensors, ipa_checkpoint: i.safetensors}\n"
    config = load_config(write(tmp_path, text))
    assert config.predictor.ipa_checkpoint == (tmp_path / "i.safetensors").resolve()
    assert config.folder == (tmp_path / "run").resolve()
    assert config.predictor.checkpoint == (tmp_path / "w.safetensors").resolve()
    assert config.policy.threshold == 0.75


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("2.5", "-1"), ["budget_cpu_h", "greater than 0"]),
        (GOOD.replace("2.5", ".nan"), ["budget_cpu_h", "finite"]),
        (GOOD + "budgett: 3\n", ["unknown key 'budgett'"]),
        (GOOD + "policy: {treshold: 0.5}\n", ["unknown key 'policy.treshold'"]),
        (GOOD + "policy: {threshold: 1.5}\n", ["policy.threshold"]),
        (GOOD + "policy: {threshold: 0}\n", ["policy.threshold"]),
        (GOOD + "audit_fraction: 1.5\n", ["audit_fraction", "less than 1"]),
        (GOOD + "audit_fraction: -0.1\n", ["audit_fraction"]),
        (GOOD + "ipa: maybe\n", ["key 'ipa'", "'skip', 'have' or 'compute'"]),
        (GOOD + "stop: {bound: 1.0}\n", ["stop.bound"]),
        (GOOD + "caps_cpu_h: {rpa: -1}\n", ["caps_cpu_h"]),
        (GOOD + "budget_calculations: 0\n", ["budget_calculations"]),
        (GOOD + "deadline: tomorrow\n", ["deadline"]),
        (GOOD + "max_in_flight: 0\n", ["max_in_flight"]),
        (GOOD.replace("halides", "'a b'"), ["campaign"]),
        ("campaign: x\nfolder: run\n", ["'budget_cpu_h' is missing"]),
        ("a: [1\n", ["not valid YAML", "line"]),
        ("- a\n", ["not a mapping"]),
        ("", ["not a mapping"]),
        ("x: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_config(file)
    message = str(error.value)
    assert "\n" not in message
    for word in [str(file), *words]:
        assert word in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_config(tmp_path / "absent.yaml")


def test_the_password_comes_from_the_environment_and_stays_out_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write(tmp_path, GOOD + "database: {uri: 'mongodb://me:${TEST_PASSWORD}@h/'}\n"))
    with pytest.raises(UsageError, match="TEST_PASSWORD is not set"):
        config.database_uri()
    monkeypatch.setenv("TEST_PASSWORD", "s3cret")
    assert config.database_uri() == "mongodb://me:s3cret@h/"
    assert "s3cret" not in str(config.public())
    assert "database" not in config.public()


def test_the_example_and_the_demo_load() -> None:
    root = Path(__file__).parents[2]
    assert load_config(root / "configs" / "campaign.yaml").campaign == "my-halides"
    assert load_config(root / "configs" / "demo" / "campaign.yaml").engine.preset == "standard"
