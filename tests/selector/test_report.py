"""The report, on a campaign fabricated from real labels: predictions are the labels' SC, perturbed from a seed."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from fabricated import (
    BOUND,
    HOSTILE,
    N_COMPUTED,
    N_KEPT,
    THRESHOLD,
    Page,
    calibration,
    read_csv,
    scattered,
    terminal,
)

from fw_tasks.launch import open_campaign
from selector.chronicle import compile_record
from selector.config import load_config
from selector.errors import UsageError
from selector.report import (
    DECISION_COLUMNS,
    CampaignRecord,
    MaterialMap,
    write_decisions_csv,
    write_report,
)
from selector.report.page import MAX_ROWS, formula_html, render_page


def test_decisions_csv_has_a_row_for_every_candidate_and_the_columns_users_rely_on(record, tmp_path):
    write_decisions_csv(record, tmp_path / "decisions.csv")
    rows = read_csv(tmp_path / "decisions.csv")
    assert tuple(rows[0]) == DECISION_COLUMNS
    assert {r["material_id"] for r in rows} == {d["material_id"] for d in record.decisions}
    assert len(rows) == len(record.decisions)
    by_id = {d["material_id"]: d for d in record.decisions}
    for row in rows:
        for key in DECISION_COLUMNS:
            expected = by_id[row["material_id"]][key]
            if isinstance(expected, bool):
                assert row[key] == str(expected)
            elif isinstance(expected, float):
                assert float(row[key]) == pytest.approx(expected, rel=1e-5)
            else:
                assert row[key] == str(expected or "")


def test_decisions_come_rpa_first_then_by_predicted_sc(record, tmp_path):
    write_decisions_csv(record, tmp_path / "decisions.csv")
    rows = read_csv(tmp_path / "decisions.csv")
    assert [r["level"] for r in rows] == ["rpa"] * (N_COMPUTED + 1) + ["ipa"] * N_KEPT + [""]
    for level in ("rpa", "ipa"):
        predicted = [float(r["sc_pred"]) for r in rows if r["level"] == level]
        assert predicted == sorted(predicted)


def test_csv_survives_commas_quotes_newlines_and_numpy_numbers(record, tmp_path):
    odd = record.decisions[0] | {"reason": 'a, "b"\nc', "sc_pred": np.float32(0.25), "sc_lo": float("nan")}
    write_decisions_csv(CampaignRecord(record.summary, [odd]), tmp_path / "d.csv")
    (row,) = read_csv(tmp_path / "d.csv")
    assert (row["reason"], row["sc_pred"], row["sc_lo"]) == ('a, "b"\nc', "0.25", "")


def test_terminal_table_fits_100_columns_and_says_why(record):
    text = terminal(record)
    assert max(map(len, text.splitlines())) <= 100
    lowest = min((d for d in record.decisions if d["sc_pred"] is not None), key=lambda d: d["sc_pred"])
    first = next(line for line in text.splitlines() if "rpa" in line)
    assert lowest["formula"] in first
    assert f"{lowest['sc_pred']:.3f} [{lowest['sc_lo']:.3f}, {lowest['sc_hi']:.3f}]" in first
    assert "rejected" in text and "no atoms" in text


def test_terminal_table_shows_markup_and_control_characters_as_text(record):
    odd = record.decisions[0] | {"reason": "[bold]x[/bold] \x1b[31mred", "material_id": "a\x1b]0;t\x07"}
    text = terminal(CampaignRecord(record.summary, [odd]))
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text and "\x07" not in text


def test_a_long_terminal_table_ends_and_says_where_the_rest_is(record):
    text = terminal(record, max_rows=3)
    assert f"and {len(record.decisions) - 3} more: see decisions.csv" in text


def test_report_is_two_files_and_no_leftover(record, tmp_path):
    paths = write_report(record, tmp_path / "new" / "folder")
    assert {k: p.name for k, p in paths.items()} == {"decisions": "decisions.csv", "html": "report.html"}
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["decisions.csv", "report.html"]
    # plotly.js is 4.8 MB; the campaign's own data must stay small beside it, so that the page can be mailed.
    assert paths["html"].stat().st_size < 5.5e6


def test_writing_again_replaces_the_report(record, fresh, tmp_path):
    write_report(fresh, tmp_path)
    paths = write_report(record, tmp_path)
    assert len(read_csv(paths["decisions"])) == len(record.decisions)
    assert "the budget has no room" in paths["html"].read_text()


def test_an_unwritable_folder_is_one_line_that_names_it(record, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(UsageError) as error:
        write_report(record, tmp_path / "taken")
    assert str(tmp_path / "taken") in str(error.value)
    assert "\n" not in str(error.value)


def test_page_needs_no_network(record):
    page = Page(render_page(record))
    for tag, attrs in page.tags:
        assert "src" not in attrs, (tag, attrs)
        assert tag not in {"link", "iframe", "img", "object", "embed"}
        assert attrs.get("href", "#").startswith("#")
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")


def test_page_says_what_was_done_and_why(record):
    page = Page(render_page(record))
    for word in ("demo", "finished", "no room for another calculation", "0.12 CPU-hours", "0123456789ab", "gpaw"):
        assert word in page.visible
    for d in record.decisions:
        row = next(r for r in page.rows if d["material_id"] in r)
        assert d["reason"] in row
    below = sum(d["sc_computed"] is not None and d["sc_computed"] < THRESHOLD for d in record.decisions)
    assert re.search(rf"{below}\s+of these below 0\.72", page.visible)


def test_page_tells_bound_updates_errors_and_how_each_material_was_chosen(record):
    page = Page(render_page(record))
    text = " ".join(page.visible.split())
    assert BOUND["sentence"] in text
    assert "1 accepted, 1 rejected" in text
    assert "0.077" in text and "0.081" in text and "0.043" in text
    (refused,) = [row for row in page.rows if "rejected: held-out error 0.052, the standing model's 0.061" in row]
    assert "sc-0000000002" in refused
    # The model that stands is the last that was accepted, not the last that was made.
    assert re.search(r"Model\s*sc-0000000001", page.visible)
    (by_lot,) = [d["material_id"] for d in record.decisions if d["random_draw"]]
    (row,) = [row for row in page.rows if by_lot in row and "lot, with probability 0.125" in row]
    assert "firework 13, attempt 1" in row
    assert sum("threshold" in row and "firework" in row for row in page.rows) == N_COMPUTED


def test_a_replayed_campaign_fills_the_page(replayed, tmp_path):
    store = open_campaign(load_config(replayed)).store
    record = compile_record(store)
    page = Page(write_report(record, tmp_path)["html"].read_text())
    text = " ".join(page.visible.split())
    assert store.campaign()["audit"]["bound"]["sentence"] in text
    rows = {row["material_id"]: row for row in read_csv(tmp_path / "decisions.csv")}
    for c in store.candidates():
        row = rows[c["material_id"]]
        if c["status"] in ("done", "failed"):
            assert row["fw_id"] == str(c["decision"]["fw_id"])
            assert row["outcome"] == c["decision"]["outcome"]["status"]
        if c["status"] != "rejected":
            assert float(row["p_low"]) == pytest.approx(c["decision"]["p_low"], rel=1e-5)
    assert {row["purpose"] for row in rows.values()} == {"rpa", "audit", ""}
    learned = store.model_history()[1]
    assert learned["accepted"] is any(f"{learned['model_id']}" in row and "accepted" in row for row in page.rows)


def test_texts_of_the_record_are_escaped_everywhere(record):
    hostile = dataclasses.replace(
        record,
        summary=record.summary
        | {"name": HOSTILE, "stop_reason": HOSTILE, "calibration": calibration(HOSTILE)}
        | {"bound": BOUND | {"sentence": HOSTILE}, "by_purpose": {HOSTILE: 1.0}, "by_stage": {HOSTILE: 1.0}},
        decisions=[d | {"formula": HOSTILE, "reason": HOSTILE, "model_id": HOSTILE} for d in record.decisions],
        predictions=[p | {"formula": HOSTILE, "model_id": HOSTILE} for p in record.predictions],
        models=[m | {"model_id": HOSTILE, "parent": HOSTILE} for m in record.models],
        ledger=[e | {"material_id": HOSTILE} for e in record.ledger],
        spectra={HOSTILE: next(iter(record.spectra.values())) | {"formula": HOSTILE}},
        events=[e | {"kind": HOSTILE, "message": HOSTILE} for e in record.events],
        map=MaterialMap([p | {"formula": HOSTILE, "material_id": HOSTILE} for p in scattered(record).points], HOSTILE),
    )
    page = Page(render_page(hostile))
    assert HOSTILE not in render_page(hostile)
    assert len(page.scripts) == len(Page(render_page(record)).scripts)
    assert HOSTILE in page.visible
    assert page.payload["spectra"][0]["formula"] == HOSTILE
    # Hover texts pass through plotly, which reads HTML tags: they are escaped a second time.
    for figure in page.payload["figures"].values():
        for trace in figure["data"]:
            assert "<script" not in json.dumps(trace.get("hovertext"))


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("RbF3", "RbF<sub>3</sub>"),
        ("Ba2(NiF5)2", "Ba<sub>2</sub>(NiF<sub>5</sub>)<sub>2</sub>"),
        ("Li0.5F", "Li<sub>0.5</sub>F"),
        ("<b>2", "&lt;b&gt;2"),
        (None, ""),
    ],
)
def test_formulas_get_subscripts(formula, expected):
    assert formula_html(formula) == expected


def test_a_campaign_without_results_is_a_sensible_page(fresh, tmp_path):
    page = Page(write_report(fresh, tmp_path)["html"].read_text())
    assert page.visible.count("Nothing computed yet.") == 2
    assert "Nothing predicted yet." in page.visible
    assert "No CPU-hours reserved or spent yet." in page.visible
    assert page.payload == {"figures": {}, "spectra": [], "map": None, "name": "demo"}
    assert "pending" in terminal(fresh) or "ipa" in terminal(fresh)


def test_an_empty_pool_is_a_sensible_page(fresh, tmp_path):
    nothing = CampaignRecord(
        fresh.summary | {"n_candidates": 0, "counts": {}, "threshold": None, "budget_cpu_h": 0.0}, []
    )
    paths = write_report(nothing, tmp_path)
    assert read_csv(paths["decisions"]) == []
    assert "threshold" in Page(paths["html"].read_text()).visible.lower()
    assert terminal(nothing)


def test_a_large_pool_keeps_the_page_small_and_says_so(record):
    many = [record.decisions[-2] | {"material_id": f"m{i}"} for i in range(3 * MAX_ROWS)]
    page = render_page(dataclasses.replace(record, decisions=many))
    assert f"The first {MAX_ROWS} of {3 * MAX_ROWS} decisions are shown" in page
    assert len(page) < 8e6


def test_an_uncalibrated_campaign_is_told_as_such(record):
    summary = record.summary | {"calibration": calibration("the weights know another kind of label", n=9, inside=8)}
    page = Page(render_page(dataclasses.replace(record, summary=summary)))
    assert "the weights know another kind of label" in page.visible
    assert "uncalibrated, widened" in page.visible
    assert "Of 9 random draws, 8 lay within theirs: 89 % (95 % confidence 70 to 97 %)" in page.visible
    calm = Page(render_page(record)).visible
    assert "coverage is not measured" in calm
    assert "uncalibrated" not in calm
