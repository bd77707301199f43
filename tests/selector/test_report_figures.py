"""The figures of the report: what they count, stack and thin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fabricated import BUDGET_CPU_H, N_COMPUTED, N_KEPT, THRESHOLD, unpacked

from selector.report import (
    CampaignRecord,
)
from selector.report.figures import burn_down, parity, sc_distribution
from selector.report.spectra_panel import half_floats, thin_spectra
from selector.spectra import similarity


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
        ipa, rpa = unpacked(s["ipa_im"]), unpacked(s["rpa_im"])
        energy = s["start_ev"] + s["step_ev"] * np.arange(len(ipa))
        assert energy[-1] == pytest.approx(20.0)
        # A broadening of 0.3 eV leaves nothing between grid points 0.05 eV apart; half precision keeps SC to 1e-3.
        sc = similarity(rpa, ipa, energy)
        assert sc == pytest.approx(record.spectra[s["material_id"]]["sc"], abs=1e-3)


def test_the_page_holds_re_and_im_to_half_precision(record):
    for s in thin_spectra(record):
        for curve in ("ipa_im", "ipa_re", "rpa_im", "rpa_re"):
            whole = record.spectra[s["material_id"]][curve][::5]
            np.testing.assert_allclose(unpacked(s[curve]), whole, rtol=2**-11, atol=2**-25)
    # Four curves take no more room than two did as decimal numbers of four digits.
    assert sum(len(v) for v in s.values() if isinstance(v, str)) < 4500
    assert unpacked(half_floats([1e6, -0.1])).tolist() == [np.inf, float(np.float16(-0.1))]


def test_a_spectrum_whose_sc_is_not_recorded_yet_comes_last(record):
    first, *rest = record.spectra
    spectra = {first: record.spectra[first] | {"sc": None}} | {k: record.spectra[k] for k in rest}
    thin = thin_spectra(dataclasses.replace(record, spectra=spectra))
    assert (thin[-1]["material_id"], thin[-1]["sc"]) == (first, None)
    assert None not in [s["sc"] for s in thin[:-1]]
