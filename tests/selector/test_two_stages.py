"""Two stages: IPA before RPA where the campaign computes it, and the choice made again; spectra that were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database
from rehearsal import HASH, Computed, ComputedIpa, Rehearsal, begin, check_promises, computed, crystal, ipa_spectrum

from selector import recalibration, results
from selector.campaign import Campaign
from selector.chronicle import compile_record, decision_rows
from selector.errors import UsageError
from selector.progress import progress
from selector.protocols import Failure, Job, Result
from selector.spectra import KnownSpectrum
from selector.store import Store
from selector.telling import in_words, why

COMPUTE = {"ipa": "compute", "max_in_flight": 4}


def only(dispatcher: Rehearsal, level: str = "ipa") -> Job:
    (job,) = dispatcher.waiting()
    assert job.level == level
    return job


def returns(campaign: Campaign, dispatcher: Rehearsal, job: Job, sc: float, wall_s: float = 3.6) -> None:
    dispatcher.outcomes[job.key] = Result(computed(job, sc, wall_s))
    campaign.step()
    check_promises(campaign, dispatcher)


def given(sc: float, settings_hash: str | None = HASH) -> KnownSpectrum:
    return KnownSpectrum(ipa_spectrum(sc), Path("ipa.json"), settings_hash)


# -- IPA first --------------------------------------------------------------------------------------------------------


def test_a_choice_by_structure_gets_ipa_at_its_own_cost(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.5), crystal("b", 0.9)], [])
    (planned, _) = campaign.plan()
    assert (planned.level, planned.cost_cpu_h, planned.now.predicted) == ("ipa", 0.01, 0.002)
    campaign.step()
    job, c = only(dispatcher), campaign.store.candidate("a")
    assert job.workdir.endswith("ipa-1")
    decision = c["decision"]
    assert (decision["level"], decision["purpose"], decision["cost_predicted_cpu_h"]) == ("ipa", "ipa", 0.002)
    assert job.time_limit_s == pytest.approx(decision["reserved_cpu_h"] * 3600)
    assert decision["reason"].startswith("its IPA spectrum first: ")
    returns(campaign, dispatcher, job, 0.9)
    totals, c = campaign.store.ledger.totals(), campaign.store.candidate("a")
    assert totals.by_purpose["ipa"] == totals.spent_cpu_h == pytest.approx(0.001)
    assert database["labels"].count_documents({}) == 0, "IPA alone is no label"
    assert (c["status"], c["ipa"], c["used_ipa_cpu_h"]) == ("skipped", "computed", pytest.approx(0.001))
    assert (c["decision"]["model_id"], round(c["decision"]["sc_mean"], 3)) == ("i0", 0.9)
    assert [d["level"] for d in c["history"]] == ["ipa"]
    assert campaign.store.campaign()["state"] == "finished"
    ends = {row["material_id"]: (row["ipa"], row["rpa"]) for row in results.endings(campaign.store)}
    assert ends == {"a": ("computed", "absent"), "b": ("absent", "absent")}
    assert [(s.level, s.origin) for s in results.recorded(campaign.store)] == [("ipa", "computed")]


def test_what_its_spectrum_confirms_goes_on_to_rpa(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.62)], [])
    campaign.step()
    first = only(dispatcher)
    returns(campaign, dispatcher, first, 0.71)
    second = only(dispatcher, "rpa")
    assert (second.attempt, second.key != first.key, second.workdir[-5:]) == (2, True, "rpa-2")
    returns(campaign, dispatcher, second, 0.7, 36.0)
    (label,) = campaign.store.labels(HASH)
    assert (label["prediction"]["model_id"], label["prediction"]["reads_ipa"]) == ("i0", True)
    assert campaign.store.ledger.totals().by_purpose["rpa"] == pytest.approx(0.01)
    told = why(campaign.store, "a")
    lines = in_words(told)
    assert "IPA computed first (0.0010 CPU-h), then the choice was made again with it: SC 0.62 -> 0.71." in lines, lines
    assert any(line.startswith("  Outcome: IPA spectrum, 0.0010 CPU-h") for line in lines)
    (row,) = decision_rows(campaign.store)
    assert (row["level"], row["status"], row["cost_cpu_h"]) == ("rpa", "done", pytest.approx(0.011))
    # The label's prediction is the second line's: it says nothing of the first one's intervals.
    assert [e["model_id"] for e in progress(campaign.store)["errors"]] == ["i0"]
    assert [m["reads_ipa"] for m in compile_record(campaign.store).models] == [False, True]


def test_while_it_is_out_and_before_it_is_decided_it_is_told_so(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.62)], [])
    campaign.step()
    assert "in flight to IPA, before the choice is made again" in in_words(why(campaign.store, "a"))[0]
    assert progress(campaign.store)["in_flight"][0]["purpose"] == "ipa"
    job = only(dispatcher)
    dispatcher.outcomes[job.key] = Result(computed(job, 0.71))
    campaign.settle(campaign.store.candidate("a"))
    (row,) = decision_rows(campaign.store)
    assert row["reason"] == "not decided yet; its IPA spectrum is computed"
    # A choice now would rest on the structure alone: it waits until it is predicted with its spectrum.
    assert not len(campaign.pool(campaign.store).pool)
    assert [c.candidate["material_id"] for c in campaign.plan()] == ["a"]


def test_pins_and_lots_and_audits_go_to_rpa_at_once(database: Database[Any], tmp_path: Path) -> None:
    policy = {"name": "threshold", "random_share": 1.0}
    campaign, dispatcher = begin(database, tmp_path, ipa="compute", policy=policy, max_in_flight=1)
    campaign.add([crystal(f"x{i}", 0.5) for i in range(3)], [])
    campaign.step()
    assert only(dispatcher, "rpa")
    assert campaign.store.candidates("running")[0]["decision"]["random_draw"]
    for name in ("campaigns", "candidates", "models", "events", "ledger"):
        database[name].delete_many({})
    campaign, dispatcher = begin(database, tmp_path, audit_fraction=0.5, **COMPUTE)
    campaign.add([crystal("pinned", 0.95), crystal("left", 0.9)], [])
    campaign.pin("pinned")
    campaign.step()
    job = only(dispatcher, "rpa")
    assert job.material_id == "pinned"
    returns(campaign, dispatcher, job, 0.9)
    dispatcher.lost_learning |= set(dispatcher.learning)
    campaign.step()
    assert only(dispatcher, "rpa").material_id == "left"
    assert campaign.store.candidate("left")["decision"]["purpose"] == "audit"


def test_failures_at_ipa_count_under_the_same_limit(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_attempts=2, **COMPUTE)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    first = only(dispatcher)
    dispatcher.outcomes[first.key] = Failure("TimedOut", "slow", 1e6, retry=True)
    campaign.step()
    second = only(dispatcher)
    # Twice its time, or more, since all that is known of this machine is that it took so long.
    assert second.time_limit_s >= 2 * first.time_limit_s - 1e-3
    returns(campaign, dispatcher, second, 0.5)
    # One failure at IPA, one at RPA: that is two.
    dispatcher.outcomes[only(dispatcher, "rpa").key] = Failure("NotConverged", "no", 1.0, retry=True)
    campaign.step()
    assert (campaign.store.candidate("a")["status"], len(dispatcher.jobs)) == ("failed", 3)


def test_what_has_no_ipa_has_no_rpa(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    dispatcher.outcomes[only(dispatcher).key] = Failure("Metallic", "no gap", 3.6, retry=False)
    campaign.step()
    c = campaign.store.candidate("a")
    assert (c["status"], c["reason_code"], c["message"]) == ("failed", "Metallic", "no gap")
    assert campaign.store.ledger.totals().by_purpose["ipa"] == pytest.approx(0.001)


@pytest.mark.parametrize("meanwhile", ["waits", "runs again", "is done"])
def test_a_late_spectrum_is_taken_and_paid_either_way(database: Database[Any], tmp_path: Path, meanwhile: str) -> None:
    campaign, dispatcher = begin(database, tmp_path, max_attempts=3, **COMPUTE)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    lost = only(dispatcher)
    dispatcher.outcomes[lost.key] = Failure("Vanished", "gone", None, retry=True)
    if meanwhile == "waits":
        campaign.settle(campaign.store.candidate("a"))
    else:
        campaign.step()
        again = only(dispatcher)
    if meanwhile == "is done":
        returns(campaign, dispatcher, again, 0.5)
        returns(campaign, dispatcher, only(dispatcher, "rpa"), 0.5)
    lost_home = Result(computed(lost, 0.6, lost.time_limit_s + 36.0))
    dispatcher.outcomes[lost.key] = lost_home
    campaign.step()
    c, totals = campaign.store.candidate("a"), campaign.store.ledger.totals()
    if meanwhile == "waits":
        assert (c["ipa"], only(dispatcher, "rpa").attempt, c["decision"]["model_id"]) == ("computed", 2, "i0")
        assert totals.by_purpose["ipa"] == pytest.approx((lost.time_limit_s + 36.0) / 3600, abs=1e-5)
    elif meanwhile == "runs again":
        assert (c["status"], c["ipa"], c["decision"]["key"]) == ("running", "computed", again.key)
        returns(campaign, dispatcher, again, 0.6)
        assert only(dispatcher, "rpa").attempt == 3
    else:
        assert (c["status"], c["sc_computed"]) == ("done", pytest.approx(0.5))
    assert not c.get("awaited")
    assert database["spectra"].count_documents({"level": "ipa"}) == 1
    check_promises(campaign, dispatcher)


# -- cost and budget --------------------------------------------------------------------------------------------------


def test_each_level_learns_its_costs_from_its_own(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal(f"x{i}", 0.4 + 0.01 * i) for i in range(4)], [])
    campaign.step()
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(computed(job, 0.5, 72.0))
    campaign.step()
    assert campaign.costs("ipa").predict(1.0) > 4.0, "ten times what was estimated, four times"
    assert campaign.costs().predict(1.0) == 1.0
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(computed(job, 0.5, 3.6))
    before = campaign.costs("ipa").predict(1.0)
    campaign.step()
    assert campaign.costs().predict(1.0) < 0.5
    assert campaign.costs("ipa").predict(1.0) == before


def test_a_spectrum_is_not_paid_for_where_rpa_could_not_be(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, budget_cpu_h=0.02, **COMPUTE)
    campaign.add([crystal("a", 0.5)], [])
    campaign.step()
    state = campaign.store.campaign()
    assert (state["state"], dispatcher.jobs) == ("finished", {})
    assert state["stop_reason"].startswith("budget: 0.0200 CPU-h left, too little")
    assert "CPU-h reserved" in campaign.store.candidate("a")["decision"]["reason"]


def test_where_the_cap_for_ipa_is_used_up_the_structure_decides(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, caps_cpu_h={"ipa": 0.02}, **COMPUTE)
    campaign.add([crystal(f"x{i}", 0.4 + 0.01 * i) for i in range(4)], [])
    for _ in range(3):
        campaign.step()
        check_promises(campaign, dispatcher)
    levels = [job.level for job in dispatcher.jobs.values()]
    assert levels.count("ipa") >= 1
    assert levels.count("rpa") == 4 - levels.count("ipa") > 0
    assert campaign.store.ledger.totals().reserved_cpu_h > 0.02


# -- two lines of models ----------------------------------------------------------------------------------------------


def settle_all(campaign: Campaign, dispatcher: Rehearsal, sc: float) -> None:
    for job in dispatcher.waiting():
        dispatcher.outcomes[job.key] = Result(computed(job, sc))
    campaign.step()


def test_both_lines_learn_in_one_job_each_through_its_gate(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal(f"x{i}", 0.4 + 0.04 * i) for i in range(4)] + [crystal("z", 0.9)], [])
    campaign.step()
    settle_all(campaign, dispatcher, 0.5)
    settle_all(campaign, dispatcher, 0.5)
    (key,) = dispatcher.learning
    assert campaign.learn(key) == "m4"
    store = campaign.store
    assert [m["model_id"] for m in store.models()] == ["m0", "m4"]
    assert [m["model_id"] for m in store.models(reads_ipa=True)] == ["i0", "i4"]
    assert (store.model()["model_id"], store.model(reads_ipa=True)["model_id"]) == ("m4", "i4")
    for model in (store.model(), store.model(reads_ipa=True)):
        assert model["gate"]["accepted"] and model["parent"] in ("m0", "i0") and len(model["held_out"]) == 4
    # The line that reads spectra was given them: it says what they say, not what the structures do.
    assert {round(x, 3) for _, x in store.model(reads_ipa=True)["held_out"]} == {0.5}
    assert campaign.learn(key) is None


def test_foreign_weights_of_either_line_wait_for_enough_labels(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    database["models"].update_one({"model_id": "i0"}, {"$set": {"settings_hash": "another"}})
    campaign.add([crystal("a", 0.5), crystal("b", 0.6)], [])
    campaign.step()
    settle_all(campaign, dispatcher, 0.5)
    settle_all(campaign, dispatcher, 0.5)
    assert campaign.learn(dispatcher.learning[0]) == "m2"
    assert campaign.store.model(reads_ipa=True)["model_id"] == "i0"
    states = {line: recalibration.standing(campaign.store, line).state for line in (False, True)}
    assert states == {False: "held_out", True: "uncalibrated"}
    assert campaign.store.campaign()["calibration_ipa"] == "uncalibrated"
    status = progress(campaign.store)
    assert [status[key]["state"] for key in ("calibration", "calibration_ipa")] == ["held_out", "uncalibrated"]


def test_likeness_is_measured_in_one_space(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    crystals = [crystal(name, sc) for name, sc in (("a", 0.5), ("b", 0.6), ("c", 0.7), ("d", 0.9))]
    campaign.add(crystals, [], {"a": given(0.3), "b": given(0.4)})
    pending = campaign.pool(campaign.store)
    assert pending.pool.mean == pytest.approx([0.3, 0.4, 0.7, 0.9])
    assert pending.pool.latent[:, 0] == pytest.approx([0.5, 0.6, 0.7, 0.9]), "by the model of structures alone"
    campaign.step()
    assert len(campaign.pool(campaign.store).pool.in_flight_latent) == 3
    assert {job.level for job in dispatcher.jobs.values() if job.material_id != "c"} == {"rpa"}


# -- spectra that were given ------------------------------------------------------------------------------------------


def test_given_spectra_decide_where_they_are(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, ipa="have", max_in_flight=4)
    spectra = {"a": given(0.9), "b": given(0.4, None)}
    campaign.add([crystal("a", 0.5), crystal("b", 0.95), crystal("c", 0.6), crystal("d", 0.9)], [], spectra)
    said = {c["material_id"]: c["prediction"] for c in campaign.store.candidates("pending")}
    assert {m: (p["model_id"], round(p["sc_mean"], 3)) for m, p in said.items()} == {
        "a": ("i0", 0.9), "b": ("i0", 0.4), "c": ("m0", 0.6), "d": ("m0", 0.9),
    }  # fmt: skip
    campaign.step()
    assert {(job.material_id, job.level) for job in dispatcher.waiting()} == {("b", "rpa"), ("c", "rpa")}
    settle_all(campaign, dispatcher, 0.5)
    campaign.learn(dispatcher.learning[0])
    campaign.step()
    ends = {row["material_id"]: (row["ipa"], row["rpa"]) for row in results.endings(campaign.store)}
    assert ends["a"] == ("given", "absent")
    assert ends["b"] == ends["c"] == ("computed", "computed")
    origins = {(s.material_id, s.level): (s.origin, s.source) for s in results.recorded(campaign.store)}
    assert len(origins) == 5 == len(list(results.recorded(campaign.store)))
    assert origins["a", "ipa"] == ("given", f"given {HASH}")
    assert origins["b", "ipa"][0] == "computed"
    # What was computed goes before what was given wherever one spectrum is meant.
    assert campaign.store.ipa_spectra(["b"])[0].eps.imag[0, -1] == pytest.approx(10.0)
    assert in_words(why(campaign.store, "a"))[1] == "Predicted with its IPA spectrum, which was given: SC 0.90."


def test_a_spectrum_given_later_makes_the_choice_anew(database: Database[Any], tmp_path: Path) -> None:
    campaign, dispatcher = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.9), crystal("b", 0.5)], [])
    campaign.add([], [], {"a": given(0.4)})
    campaign.step()
    assert {(job.material_id, job.level) for job in dispatcher.waiting()} == {("a", "rpa"), ("b", "ipa")}


def test_a_campaign_that_reads_no_spectra_takes_none(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    with pytest.raises(UsageError, match=r"ipa: skip"):
        campaign.add([crystal("a", 0.5)], [], {"a": given(0.4)})
    assert campaign.store.lines() == (False,)
    assert database["candidates"].count_documents({}) == 0


def test_without_it_documents_are_those_of_earlier_releases(database: Database[Any], tmp_path: Path) -> None:
    campaign, _ = begin(database, tmp_path)
    campaign.add([crystal("a", 0.5)], [])
    c = campaign.store.candidate("a")
    assert not {"ipa", "estimate_ipa_cpu_h"} & c.keys()
    assert not {"reads_ipa", "latent_model_id"} & c["prediction"].keys()
    assert c["prediction"]["stamp"] == "m0 held_out"


def test_a_belated_prediction_does_not_replace_one_that_read_the_spectrum(
    database: Database[Any], tmp_path: Path
) -> None:
    campaign, _ = begin(database, tmp_path, **COMPUTE)
    campaign.add([crystal("a", 0.5)], [])
    store: Store = campaign.store
    belated = store.candidate("a")["prediction"]
    campaign.add([], [], {"a": given(0.4)})
    store.set_predictions({"a": {**belated, "model_round": 7}})
    assert store.candidate("a")["prediction"]["model_id"] == "i0"


def test_ipa_alone_and_both_are_told_apart() -> None:
    assert set(ComputedIpa(0.5).spectra) == {"ipa"}
    assert np.allclose(Computed(0.5).spectra["ipa"].eps, ComputedIpa(0.5).spectra["ipa"].eps)
