"""Everything a report shows, as one plain object: the report knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

DECISION_COLUMNS = (
    "material_id",
    "formula",
    "level",
    "status",
    "reason",
    "sc_pred",
    "sc_lo",
    "sc_hi",
    "sc_computed",
    "cost_predicted_cpu_h",
    "cost_cpu_h",
    "model_id",
    "out_of_domain",
    "calibration",
    "p_low",
    "policy",
    "purpose",
    "random_draw",
    "audit_probability",
    "attempt",
    "fw_id",
    "outcome",
    "by_hand",
)
_LEVEL_ORDER = {"rpa": 0, "ipa": 1}


@dataclass(frozen=True)
class MaterialMap:
    """Materials laid out in the plane.

    Attributes
    ----------
    points : list of dict
        material_id, formula, x, y, sc_pred, sc_lo, sc_hi (90 % interval), sc_computed, out_of_domain. A number that is
        not known is None.
    model_id : the predictor by whose latent vectors they are laid out.
    predicted_spectra : dict
        material_id -> energy_ev (n,) in eV, ipa_im (n,), rpa_im (n,): Im(eps), trace / 3, as spectrum models see it.
    note : what is left out, or why there is no map; or None.
    """

    points: list[dict[str, Any]]
    model_id: str
    predicted_spectra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class CampaignRecord:
    """A campaign as it stands, built by the store.

    SC is SC[RPA; IPA], costs are CPU-hours, times are ISO 8601. A number that is not known is None.

    Attributes
    ----------
    summary : dict
        name, state, stop_reason, policy, threshold, engine, preset, settings_hash, budget_cpu_h, spent_cpu_h,
        reserved_cpu_h, audit_available_cpu_h, by_purpose and by_stage (CPU-hours spent), n_candidates, counts (status
        -> n), created, updated, calibration (what the intervals rest on, `selector.recalibration.Calibration.summary`),
        bound (`selector.progress.bound`), updates (`selector.progress.updates`), errors
        (`selector.progress.errors_by_round`).
    decisions : list of dict
        One for every candidate, rejected inputs included; keys are `DECISION_COLUMNS`. ``level`` is "ipa", "rpa" or "",
        ``calibration`` what the interval rests on: "held_out", "uncalibrated" or "random_draws"; ``purpose`` "rpa",
        "ipa" (IPA alone, before the choice is made again), "audit" or None; ``outcome`` "done", why the attempt failed,
        or None; ``by_hand`` "pinned", "vetoed" or None.
    predictions : list of dict
        The prediction standing when a material was dispatched: material_id, formula, model_id, model_round (0 is the
        shipped weights), sc_pred, sc_lo, sc_hi (90 % interval), sc_computed.
    models : list of dict
        round, model_id, parent, n_new_labels, created, oof_mae (out-of-fold mean absolute error of SC), accepted,
        reads_ipa (beside structures: a line of models of its own), gate (the learning gate's comparison with the model
        that stood, `selector.gate.Verdict.summary`, or None).
    ledger : list of dict
        time, event ("reserve", "settle", "refund"), material_id, cpu_h, and the totals after the event, spent_cpu_h and
        reserved_cpu_h.
    spectra : dict
        material_id -> formula, sc, energy_ev (n,) in eV, ipa_im, ipa_re, rpa_im, rpa_re, (n,) each: Im and Re(eps),
        trace / 3; only what was computed.
    events : list of dict
        time, kind, message.
    map : MaterialMap, or None where none was asked for.
    """

    summary: dict[str, Any]
    decisions: list[dict[str, Any]]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    spectra: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    map: MaterialMap | None = None

    def sorted_decisions(self) -> list[dict[str, Any]]:
        """RPA first, then IPA, then rejected inputs; within each the lowest predicted SC first, unknown ones last."""

        def key(d: dict[str, Any]) -> tuple[int, bool, float, str]:
            sc = d["sc_pred"]
            return _LEVEL_ORDER.get(d["level"], 2), sc is None, 0.0 if sc is None else float(sc), d["material_id"]

        return sorted(self.decisions, key=key)


def utc(time: str) -> datetime:
    """An ISO 8601 time as a naive datetime in UTC; a time without offset is UTC already."""
    t = datetime.fromisoformat(time)
    return t.astimezone(UTC).replace(tzinfo=None) if t.tzinfo else t
