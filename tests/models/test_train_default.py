from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Structure

from models.checkpoints import default_checkpoint, load
from models.labels import load_labels
from models.train_default import DEMO, demo_formulas, main, train_default
from selector.errors import SelectorError, UsageError

# Positions like 0.3333 in a CIF are rounded to thirds; pymatgen says so each time.
pytestmark = pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF:UserWarning")


def test_shipped_weights_never_saw_a_formula_of_the_demo():
    files = list(DEMO.glob("*.cif"))
    assert len(files) == 40
    card = load(default_checkpoint()).card
    shown = {Structure.from_file(f).reduced_formula for f in files}
    assert shown == demo_formulas()
    assert shown.isdisjoint(card["data"]["formulas"])
    # Both polymorphs of KCl stand in the demo and a third among the labels: the exclusion does something.
    assert "KCl" in shown
    assert "agm003157250" not in card["data"]["material_ids"]


def test_the_shipped_weights_can_be_made_again(labels):
    shipped = load(default_checkpoint())
    used = load_labels(ids=shipped.card["data"]["material_ids"])
    again = train_default(used, demo_formulas(), seed=shipped.card["seed"])
    assert again.settings_hash == shipped.settings_hash
    assert again.scores == pytest.approx(shipped.scores, abs=1e-3)
    crystals = [k.structure for k in labels]
    assert again.predict(crystals).mean == pytest.approx(shipped.predict(crystals).mean, abs=1e-4)
    # The name rounds what it hashes to three decimals, so that another machine's last bits do not change it.
    assert again.model_id == shipped.model_id


def test_shipped_metrics_beat_guessing():
    m = load(default_checkpoint()).card["metrics"]
    assert m["oof_mae"] < 0.75 * m["mae_guess"]


def test_naf3_is_among_the_lowest_of_the_demo():
    """Its relative RbF3 is among the labels: what the model learned there must carry over."""
    files = sorted(DEMO.glob("*.cif"))
    said = load(default_checkpoint()).predict([Structure.from_file(f) for f in files])
    assert "agm002763061" in {files[i].stem for i in np.argsort(said.mean)[:3]}
    assert (said.mean < 0.8).sum() >= 6


def test_command(tmp_path, capsys, labels):
    manifest = tmp_path / "few.json"
    manifest.write_text(json.dumps([k.material_id for k in labels[:20]]))
    main(["--manifest", str(manifest), "--out", str(tmp_path / "w"), "--seed", "4"])
    made = load(tmp_path / "w")
    assert made.model_id in capsys.readouterr().out
    assert made.card["seed"] == 4
    # Typed in the repository's root it runs again; a folder elsewhere does not go into a card that travels.
    assert "--manifest few.json --exclude configs/demo --seed 4" in made.card["command"]
    assert str(tmp_path) not in json.dumps(made.card)
    assert set(made.card["data"]["material_ids"]) <= {k.material_id for k in labels[:20]}


def test_errors_are_one_line_and_exit_codes_tell_them_apart(tmp_path, capsys):
    with pytest.raises(SystemExit) as e:
        main(["--manifest", str(tmp_path / "none.json")])
    assert e.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match="no CIF files"):
        demo_formulas(tmp_path)


def test_labels_of_two_kinds_are_refused(labels):
    mixed = [*labels[:10], replace(labels[10], settings_hash="0" * 12)]
    with pytest.raises(SelectorError, match="2 settings hashes"):
        train_default(mixed, set())
