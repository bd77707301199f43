"""The report, on a campaign fabricated from real labels: predictions are the labels' SC, perturbed from a seed."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import models
from fw_tasks.launch import open_campaign
from selector.chronicle import compile_record
from selector.config import load_config
from selector.errors import UsageError
from selector.report import (
    DECISION_COLUMNS,
    CampaignRecord,
    MaterialMap,
    decision_table,
    write_decisions_csv,
    write_map,
    write_report,
)
from selector.report.figures import burn_down, parity, sc_distribution, thin_spectra
from selector.report.material_map import map_figures, map_payload
from selector.report.page import MAX_ROWS, formula_html, render_map, render_page
from selector.spectra import ENERGY_EV, Spectrum, similarity

N_COMPUTED, N_KEPT, BUDGET_CPU_H, THRESHOLD = 12, 26, 0.12, 0.72
HOSTILE = "<script>document.title='owned'</script>"


def calibration(message: str | None = None, n: int = 0, inside: int = 0) -> dict:
    """What the intervals rest on; uncalibrated where there is a message."""
    return {
        "state": "uncalibrated" if message else "held_out", "message": message or "held-out errors",
        "weights": "gpaw a", "own": "gpaw b", "n_random": n, "n_random_needed": 30,
        "coverage": {"inside": inside, "n": n, "lo": 0.7, "hi": 0.97} if n else None,
    }  # fmt: skip


BOUND = {
    "kind": "final", "share": 0.115, "n_drawn": 12, "n_below": 0, "n_failed": 0,
    "sentence": "Of the 26 materials left at IPA, at most 11.6 % (95 %) have SC below 0.72: of 12 drawn at random, "
    "0 below.",
}  # fmt: skip


def real_labels(n: int) -> list[dict]:
    """RbF3, whose SC is the lowest of the paper's halides, and the next n - 1 labels by id."""
    labels = {}
    for shard in sorted((Path(models.__file__).parent / "data" / "alexandria_gpaw").glob("shard-*.npz")):
        with np.load(shard) as z:
            omega, ipa, rpa, start = z["omega"], z["ipa"], z["rpa"], z["start"]
            for i, meta in enumerate(json.loads(str(z["meta"]))):
                part = slice(start[i], start[i + 1])
                spectra = [Spectrum(omega[part].astype(float), eps[:, part]).on_grid().mean.imag for eps in (ipa, rpa)]
                labels[meta["mat_id"]] = meta | {"ipa_im": spectra[0], "rpa_im": spectra[1]}
    first = labels.pop("agm002763063")
    return [first, *(labels[k] for k in sorted(labels)[: n - 1])]


def fabricate(labels: list[dict], seed: int = 7) -> CampaignRecord:
    """A finished campaign: three rounds of the lowest predicted SC, one failure, one rejected file, the rest at IPA."""
    rng = np.random.default_rng(seed)
    sc = np.array([m["sc"] for m in labels])
    pred = 0.35 * sc.mean() + 0.65 * sc + rng.normal(0, 0.03, len(sc))
    half = rng.uniform(0.05, 0.12, len(sc))
    order = np.argsort(pred)
    begin = datetime(2026, 11, 21, 9, 0, tzinfo=timezone(timedelta(hours=1)))
    decisions, predictions, ledger, spectra, events = [], [], [], {}, []
    spent = 0.0
    for rank, i in enumerate(order):
        m = labels[i]
        cost = m["cpu_s"] / 3600
        model_round = min(rank // 5, 2)
        row = {
            "material_id": m["mat_id"], "formula": m["formula"], "sc_pred": pred[i], "sc_lo": pred[i] - half[i],
            "sc_hi": min(pred[i] + half[i], 1.0), "sc_computed": None, "cost_predicted_cpu_h": 1.1 * cost,
            "cost_cpu_h": None, "model_id": f"sc-{model_round:010x}", "out_of_domain": bool(rank % 9 == 8),
            "calibration": "held_out", "p_low": 0.4, "policy": "threshold", "purpose": None, "random_draw": False,
            "audit_probability": 0.0, "attempt": None, "fw_id": None, "outcome": None, "by_hand": None,
        }  # fmt: skip
        if rank <= N_COMPUTED:
            failed = rank == N_COMPUTED
            row |= {"level": "rpa", "status": "failed" if failed else "done", "cost_cpu_h": cost}
            row |= {"purpose": "rpa", "attempt": 1, "fw_id": 10 + rank, "outcome": "TimedOut" if failed else "done"}
            if rank == 3:
                row |= {"random_draw": True, "audit_probability": 0.125}
            row["reason"] = "TimedOut: 120 s" if failed else f"lowest predicted SC, {pred[i]:.3f} < {THRESHOLD:g}"
            time = begin + timedelta(seconds=25 * rank)
            reserve = {"event": "reserve", "cpu_h": 1.6 * cost, "spent_cpu_h": spent, "reserved_cpu_h": 1.6 * cost}
            spent += cost
            settle = {"event": "settle", "cpu_h": cost, "spent_cpu_h": spent, "reserved_cpu_h": 0.0}
            for entry, seconds in ((reserve, 0), (settle, 18)):
                ledger.append(
                    {"time": (time + timedelta(seconds=seconds)).isoformat(), "material_id": m["mat_id"]} | entry
                )
            if not failed:
                row["sc_computed"] = m["sc"]
                keys = ("material_id", "formula", "model_id", "sc_pred", "sc_lo", "sc_hi", "sc_computed")
                predictions.append({k: row[k] for k in keys} | {"model_round": model_round})
                spectra[m["mat_id"]] = {k: m[k] for k in ("formula", "sc", "ipa_im", "rpa_im")} | {
                    "energy_ev": ENERGY_EV
                }
            outcome = "TimedOut" if failed else f"SC {m['sc']:.3f}"
            message = f"{m['mat_id']}: {outcome}, {cost:.4f} CPU-h"
            events.append({"time": ledger[-1]["time"], "kind": row["status"], "message": message})
        else:
            row |= {"level": "ipa", "status": "skipped", "reason": "the budget went to lower predicted SC"}
        decisions.append(row)
    decisions.append(
        dict.fromkeys(DECISION_COLUMNS)
        | {"material_id": "broken", "level": "", "status": "rejected", "reason": "broken.cif: no atoms in the file"}
    )
    statuses = [d["status"] for d in decisions]
    summary = {
        "name": "demo", "state": "finished", "stop_reason": "the budget has no room for another calculation",
        "policy": "threshold", "threshold": THRESHOLD, "engine": "gpaw", "preset": "standard-1",
        "settings_hash": "0123456789ab", "budget_cpu_h": BUDGET_CPU_H, "spent_cpu_h": spent, "reserved_cpu_h": 0.0,
        "n_candidates": len(decisions), "counts": {s: statuses.count(s) for s in dict.fromkeys(statuses)},
        "created": (begin - timedelta(seconds=20)).isoformat(), "updated": (begin + timedelta(seconds=340)).isoformat(),
        "calibration": calibration(), "bound": BOUND, "updates": {"accepted": 1, "rejected": 1, "last": None},
        "audit_available_cpu_h": 0.01, "by_purpose": {"rpa": spent, "learn": 0.0}, "by_stage": {"ground_state": spent},
        "errors": [
            {"round": 0, "model_id": "sc-0000000000", "n": 5, "mae": 0.0771, "n_random": 1, "mae_random": 0.0812},
            {"round": 1, "model_id": "sc-0000000001", "n": 7, "mae": 0.0432, "n_random": 0, "mae_random": None},
        ],
    }  # fmt: skip
    gate = {"old_error": 0.061, "new_error": 0.052, "standard_error": 0.004, "n_labels": 5}
    rounds = [
        {"round": r, "model_id": f"sc-{r:010x}", "parent": f"sc-{r - 1:010x}" if r else None, "n_new_labels": 5 * r,
         "created": (begin + timedelta(seconds=125 * r)).isoformat(), "oof_mae": 0.046 - 0.002 * r,
         "accepted": r < 2, "gate": gate | {"accepted": r < 2} if r else None}
        for r in range(3)
    ]  # fmt: skip
    return CampaignRecord(summary, decisions, predictions, rounds, ledger, spectra, events)


@pytest.fixture(scope="module")
def record() -> CampaignRecord:
    return fabricate(real_labels(N_COMPUTED + N_KEPT + 1))


@pytest.fixture(scope="module")
def fresh(record: CampaignRecord) -> CampaignRecord:
    """The same campaign before anything was predicted or computed."""
    unknown = dict.fromkeys(
        ("out_of_domain", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "cost_predicted_cpu_h", "cost_cpu_h", "model_id")
    )
    rows = [d | unknown | {"level": "ipa", "status": "pending", "reason": None} for d in record.decisions[:5]]
    summary = record.summary | {"state": "running", "stop_reason": None, "spent_cpu_h": 0.0, "counts": {"pending": 5}}
    return CampaignRecord(summary, rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def terminal(record: CampaignRecord, **kwargs: int) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(decision_table(record, **kwargs))
    return console.file.getvalue()


class Page(HTMLParser):
    """Elements, the texts of the table's rows, and the scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[str] = []
        self.scripts: list[str] = []
        self.visible = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.visible += data
            if self.rows:
                self.rows[-1] += data

    @property
    def payload(self) -> dict:
        return json.loads(self.scripts[0])


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


def test_distribution_counts_every_material_once(record):
    figure = sc_distribution(record)
    counts = {trace.name: int(np.sum(trace.y)) for trace in figure.data}
    assert counts == {
        "predicted, at IPA": N_KEPT,
        "predicted, sent to RPA": N_COMPUTED + 1,
        "computed": N_COMPUTED,
    }
    assert [s.x0 for s in figure.layout.shapes] == [THRESHOLD, THRESHOLD]
    rbf3 = [t for t in figure.data[2].hovertext if "agm002763063" in t]
    assert len(rbf3) == 1 and "0.175" in rbf3[0] and "SC 0.15 to 0.20: 1" in rbf3[0]


def test_distribution_keeps_a_value_on_the_last_edge_and_one_below_zero(record):
    rows = [record.decisions[0] | {"sc_pred": v, "sc_computed": v} for v in (1.0, -0.31, 0.5)]
    figure = sc_distribution(CampaignRecord(record.summary, rows))
    assert [int(np.sum(t.y)) for t in figure.data] == [0, 3, 3]


def test_parity_draws_intervals_and_the_error_of_each_round(record):
    figure = parity(record)
    rounds = [t for t in figure.data if t.mode == "markers"]
    assert len(rounds) == 3
    for r, trace in enumerate(rounds):
        points = [p for p in record.predictions if p["model_round"] == r]
        mae = np.mean([abs(p["sc_pred"] - p["sc_computed"]) for p in points])
        assert f"round {r}" in trace.name and f"MAE {mae:.3f}, n = {len(points)}" in trace.name
        assert list(trace.x) == [p["sc_computed"] for p in points]
        tops = np.array(trace.y) + np.array(trace.error_y.array)
        bottoms = np.array(trace.y) - np.array(trace.error_y.arrayminus)
        np.testing.assert_allclose(tops, [p["sc_hi"] for p in points])
        np.testing.assert_allclose(bottoms, [p["sc_lo"] for p in points])


def test_burn_down_stacks_up_to_the_budget_at_every_moment(record):
    spent, reserved, left = burn_down(record).data
    np.testing.assert_allclose(np.add(np.add(spent.y, reserved.y), left.y), BUDGET_CPU_H)
    assert spent.y[0] == 0 and spent.y[-1] == record.ledger[-1]["spent_cpu_h"]
    # Times carry an offset of one hour in the record and are drawn in UTC.
    assert spent.x[1].startswith("2026-11-21 08:00:00")
    assert list(spent.x) == sorted(spent.x)


def test_a_long_ledger_is_thinned_to_its_true_end(record):
    long = [record.ledger[0] | {"spent_cpu_h": 1e-5 * i} for i in range(10_000)]
    spent = burn_down(dataclasses.replace(record, ledger=long)).data[0]
    assert len(spent.x) < 2100
    assert spent.y[-1] == long[-1]["spent_cpu_h"]


def test_thinned_spectra_still_carry_their_sc(record):
    thin = thin_spectra(record)
    assert [s["sc"] for s in thin] == sorted(s["sc"] for s in thin)
    for s in thin:
        energy = s["start_ev"] + s["step_ev"] * np.arange(len(s["ipa"]))
        assert energy[-1] == pytest.approx(20.0)
        # A broadening of 0.3 eV leaves nothing between grid points 0.05 eV apart; four digits keep SC to 1e-3.
        sc = similarity(np.array(s["rpa"]), np.array(s["ipa"]), energy)
        assert sc == pytest.approx(record.spectra[s["material_id"]]["sc"], abs=1e-3)


def test_a_spectrum_whose_sc_is_not_recorded_yet_comes_last(record):
    first, *rest = record.spectra
    spectra = {first: record.spectra[first] | {"sc": None}} | {k: record.spectra[k] for k in rest}
    thin = thin_spectra(dataclasses.replace(record, spectra=spectra))
    assert (thin[-1]["material_id"], thin[-1]["sc"]) == (first, None)
    assert None not in [s["sc"] for s in thin[:-1]]


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


def dump_dom(path: Path, profile: Path) -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no chromium on this machine: install it, or leave the marker `chromium` out"
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += (
        " --disable-component-update --disable-sync --virtual-time-budget=8000 --enable-logging=stderr --dump-dom"
    )
    command = [chromium, *options.split(), f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not errors
    return done.stdout


@pytest.mark.chromium
def test_a_browser_draws_the_figures_and_runs_no_script_of_the_record(record, tmp_path):
    events = [*record.events, {"time": record.summary["updated"], "kind": "note", "message": HOSTILE}]
    decisions = [record.decisions[0] | {"formula": HOSTILE, "reason": HOSTILE}, *record.decisions[1:]]
    predictions = [record.predictions[0] | {"formula": HOSTILE}, *record.predictions[1:]]
    odd = dataclasses.replace(record, events=events, decisions=decisions, predictions=predictions)
    dom = dump_dom(write_report(odd, tmp_path)["html"], tmp_path / "profile")
    assert "<title>demo - theory level report</title>" in dom
    for name in ("distribution", "parity", "spectra", "burndown"):
        assert re.search(rf'id="plot-{name}"[^>]*js-plotly-plot|js-plotly-plot[^>]*id="plot-{name}"', dom)
    options = re.search(r'<select id="material".*?</select>', dom, re.DOTALL).group(0)
    assert options.count("<option") == N_COMPUTED
    assert "agm002763063" in html.unescape(options)
    # Two spectra, three stacked areas, the diagonal and three rounds: lines and points that only exist once drawn.
    assert dom.count('class="trace scatter') >= 9
    assert dom.count('class="trace bars"') >= 3


USER = """<script>
const visible = () => [...document.querySelectorAll("#decisions tbody tr")].filter((row) => !row.hidden);
const cells = (n) => visible().map((row) => row.cells[n].dataset.sort);
const head = [...document.querySelectorAll("#decisions th button")].find((b) => b.textContent === "SC computed");
head.click();
const ascending = cells(4);
head.click();
const descending = cells(4);
const search = document.getElementById("search");
search.value = "RPA timedout";
search.dispatchEvent(new Event("input"));
const found = cells(1);
document.getElementById("next").click();
const trace = document.getElementById("plot-spectra").data[1];
const said = { ascending, descending, found, shown: document.getElementById("shown").textContent,
  picked: document.getElementById("material").value, rpa: [...trace.y].slice(0, 50) };
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script></body>"""


@pytest.mark.chromium
def test_a_user_sorts_filters_and_picks_a_spectrum(record, tmp_path):
    page = tmp_path / "used.html"
    page.write_text(render_page(record).replace("</body>", USER), encoding="utf-8")
    said = json.loads(
        html.unescape(re.search(r'<pre id="said">(.*?)</pre>', dump_dom(page, tmp_path / "profile")).group(1))
    )
    computed = sorted(d["sc_computed"] for d in record.decisions if d["sc_computed"] is not None)
    unknown = [""] * (len(record.decisions) - N_COMPUTED)
    # Materials without a computed SC stay at the end whichever way the column is sorted.
    assert said["ascending"] == [f"{sc:.6g}" for sc in computed] + unknown
    assert said["descending"] == [f"{sc:.6g}" for sc in reversed(computed)] + unknown
    (failed,) = [d for d in record.decisions if d["status"] == "failed"]
    assert said["found"] == [failed["formula"]]
    assert said["shown"] == f"1 of {len(record.decisions)}"
    second = thin_spectra(record)[1]
    assert said["picked"] == second["material_id"]
    assert said["rpa"] == second["rpa"][:50]


# -- the map ----------------------------------------------------------------------------------------------------------


def scattered(record: CampaignRecord, note: str | None = None) -> MaterialMap:
    """Every candidate somewhere, with spectra for all but the one of highest SC (all the same, for want of a model)."""
    rng = np.random.default_rng(3)
    rows = [d for d in record.decisions if d["status"] != "rejected"]
    keys = ("material_id", "formula", "sc_pred", "sc_lo", "sc_hi", "sc_computed", "out_of_domain")
    points = [{k: d[k] for k in keys} | {"x": rng.normal(), "y": rng.normal()} for d in rows]
    some = next(iter(record.spectra.values()))
    spectra = {k: some[k] for k in ("energy_ev", "ipa_im", "rpa_im")}
    lacking = max(rows, key=lambda d: d["sc_pred"])["material_id"]
    predicted = {d["material_id"]: spectra for d in rows if d["material_id"] != lacking}
    return MaterialMap(points, "sc-0123456789", predicted, note)


def test_the_map_shows_every_material_once_by_what_is_known_of_it(record):
    drawn = scattered(record)
    figure = map_figures(drawn)["map"]
    data = {t.legendgroup: t for t in figure.data if t.customdata}
    known = [i for i, p in enumerate(drawn.points) if p["sc_computed"] is not None]
    outside = [i for i, p in enumerate(drawn.points) if p["out_of_domain"] and i not in known]
    assert list(data["SC computed"].customdata) == known
    assert list(data["predicted, out of domain"].customdata) == outside
    assert sorted(i for t in data.values() for i in t.customdata) == list(range(len(drawn.points)))
    assert len({t.marker.symbol for t in data.values()}) == 3
    for trace in data.values():
        for i, x, colour, text in zip(trace.customdata, trace.x, trace.marker.color, trace.hovertext, strict=True):
            p = drawn.points[i]
            assert x == p["x"]
            assert colour == (p["sc_pred"] if p["sc_computed"] is None else p["sc_computed"])
            assert p["formula"] in text and p["material_id"] in text
            assert f"predicted {p['sc_pred']:.3f} [{p['sc_lo']:.3f}, {p['sc_hi']:.3f}]" in text
            assert ("unlike every crystal" in text) == p["out_of_domain"]


def test_computed_spectra_are_not_predicted_a_second_time(record):
    payload = map_payload(scattered(record), set(record.spectra))
    assert not {s["material_id"] for s in payload["predicted"]} & set(record.spectra)
    assert len(payload["predicted"]) == N_KEPT  # the failed one and those left at IPA, less the one without
    (length,) = {len(s["ipa"]) for s in payload["predicted"]}
    assert payload["predicted"][0]["step_ev"] * (length - 1) == pytest.approx(20.0)


def test_the_map_stands_in_the_report_and_alone(record, tmp_path):
    drawn = scattered(record, note="39 of 50 materials are drawn")
    page = Page(render_page(dataclasses.replace(record, map=drawn)))
    assert {"map", "map-spectra"} <= set(page.payload["figures"])
    write_map(drawn, tmp_path / "sub" / "map.html", "halides", record)
    alone = Page((tmp_path / "sub" / "map.html").read_text(encoding="utf-8"))
    assert set(alone.payload["figures"]) == {"map", "map-spectra"}
    assert {s["material_id"] for s in alone.payload["spectra"]} == set(record.spectra)
    assert "halides" in alone.visible
    for source in (page, alone):
        assert "39 of 50 materials are drawn" in source.visible
        assert len(source.payload["map"]["points"]) == len(drawn.points)
        assert not [a for _, a in source.tags if "src" in a]
    assert Page(render_map(drawn, "files")).payload["spectra"] == []


def test_a_report_without_a_map_says_why_or_nothing(record):
    assert "Map" not in Page(render_page(record)).visible
    page = Page(render_page(dataclasses.replace(record, map=MaterialMap([], "sc-1", note="umap-learn is missing"))))
    assert "umap-learn is missing" in page.visible
    assert "map" not in page.payload["figures"]


def test_an_uncalibrated_campaign_is_told_as_such(record):
    summary = record.summary | {"calibration": calibration("the weights know another kind of label", n=9, inside=8)}
    page = Page(render_page(dataclasses.replace(record, summary=summary)))
    assert "the weights know another kind of label" in page.visible
    assert "uncalibrated, widened" in page.visible
    assert "Of 9 random draws, 8 lay within theirs: 89 % (95 % confidence 70 to 97 %)" in page.visible
    calm = Page(render_page(record)).visible
    assert "coverage is not measured" in calm
    assert "uncalibrated" not in calm


LOOKED_AT = """<script>
const plot = document.getElementById("plot-map"), side = document.getElementById("plot-map-spectra");
const text = (id) => document.getElementById(id).textContent;
const seen = () => ({ id: text("map-id"), formula: document.getElementById("map-formula").innerHTML, sc: text("map-sc"),
  source: text("map-source"), rpa: [...side.data[1].y].slice(0, 50), dash: side.data[0].line.dash,
  ring: [...plot.data.at(-1).x] });
const hover = (i) => plot.emit("plotly_hover", { points: [{ customdata: i }] });
const click = (i) => plot.emit("plotly_click", { points: [{ customdata: i }] });
const said = { first: seen() };
hover(PREDICTED);
said.predicted = seen();
hover(LACKING);
said.lacking = seen();
click(PREDICTED);
hover(0);
said.kept = seen();
click(PREDICTED);
hover(0);
said.released = seen();
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script></body>"""


@pytest.mark.chromium
def test_a_user_looks_at_materials_on_the_map(record, tmp_path):
    drawn = scattered(record)
    lacking = max(range(len(drawn.points)), key=lambda i: drawn.points[i]["sc_pred"])
    predicted = next(i for i, p in enumerate(drawn.points) if p["sc_computed"] is None and i != lacking)
    script = LOOKED_AT.replace("PREDICTED", str(predicted)).replace("LACKING", str(lacking))
    page = tmp_path / "map.html"
    page.write_text(render_map(drawn, "halides", record).replace("</body>", script), encoding="utf-8")
    dom = dump_dom(page, tmp_path / "profile")
    said = json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', dom).group(1)))
    lowest = min(drawn.points, key=lambda p: p["sc_pred"] if p["sc_computed"] is None else p["sc_computed"])
    assert (said["first"]["id"], said["first"]["dash"]) == (lowest["material_id"], "solid")
    assert said["first"]["formula"] == str(formula_html(lowest["formula"]))
    assert f"SC computed {lowest['sc_computed']:.3f}" in said["first"]["sc"]
    assert said["first"]["ring"] == [lowest["x"]]
    thin = next(s for s in thin_spectra(record) if s["material_id"] == lowest["material_id"])
    assert said["first"]["rpa"] == thin["rpa"][:50]
    p = drawn.points[predicted]
    assert (said["predicted"]["id"], said["predicted"]["dash"]) == (p["material_id"], "dash")
    assert "predicted from the structure" in said["predicted"]["source"]
    assert said["predicted"]["ring"] == [p["x"]]
    assert said["lacking"]["rpa"] == []
    assert said["lacking"]["source"] == "No spectrum of it is known."
    assert said["kept"]["id"] == p["material_id"]
    assert said["released"]["id"] == drawn.points[0]["material_id"]
