"""Does the audit's bound hold, whatever the policy does? ``python benchmarks/audit.py`` from the repository's root.

Simulated campaigns on known pairs of computed and predicted SC: a policy takes materials from the pool, the rest S is
frozen, a random draw of S is computed, and the bound is compared with the true share of S below the threshold. Three
tables: policies that select as hard as they like; money and failed runs; looks during the campaign. Rows in [brackets]
break a rule of `selector.audit`, to show what the rule is for.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, hypergeom, norm, rankdata

from models.description import STRUCTURE, describe
from models.labels import load_labels, read_manifest
from models.sc_regression import cross_validate
from selector.audit import ALPHA, AuditBound, AuditOutcome, alpha_of_look, audit_bound, draw
from selector.audit_pot import AuditSample, audit_sample

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

HERE = Path(__file__).parent
PAIRS = HERE / "data" / "paper_fig6_sc_pairs.csv"
MANIFEST = HERE / "manifests" / "2026-11-21-231.json"
MOST_MISSES, MOST_WIDE = 0.06, 1.2

N_CAMPAIGNS = 2000
MONEY = "money: audit_sample"
THRESHOLDS = (0.70, 0.75)
POOL_SHARE = 0.75  # each campaign has another random pool
COMPUTED_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
AUDIT_SIZES = (5, 8, 12, 20, 30, 45, 70, 100)  # up to half of S
N_LOOKS, DRAWN_A_LOOK, STEP_SHARE = 6, 12, 0.04
COST_LOG_SD = 0.4
STOP_AT = (0.05, 0.10, 0.20)

NAMES = [f"{i:04d}" for i in range(1000)]
bound_of = cache(audit_bound)


@dataclass(frozen=True)
class Materials:
    """n materials whose SC is known: `predicted` by a model that did not see it, `reserve_cpu_h` their hard caps."""

    sc: Array
    predicted: Array
    reserve_cpu_h: Array

    def __len__(self) -> int:
        return len(self.sc)

    def some(self, chosen: Indices | Mask) -> Materials:
        return Materials(self.sc[chosen], self.predicted[chosen], self.reserve_cpu_h[chosen])


def paper_pairs() -> Materials:
    """The paper's test set. Its costs are made up: log-normal, the low ones dearer (correlation about -0.5)."""
    sc, predicted = np.loadtxt(PAIRS, delimiter=",", comments="#", skiprows=2).T
    normal = np.random.default_rng(0).standard_normal(len(sc))
    standing = (rankdata(sc) / len(sc) - 0.5) * np.sqrt(12)
    return Materials(sc, predicted, np.exp(np.sqrt(0.75) * normal - 0.5 * standing))


def shipped_labels(manifest: Path = MANIFEST) -> Materials:
    """The labels with their recorded costs, predicted out of fold by the default predictor's regression."""
    labels = load_labels(ids=read_manifest(manifest))
    sc = np.array([label.sc for label in labels])
    structures, formulas = [label.structure for label in labels], [label.formula for label in labels]
    predicted, _ = cross_validate(describe(structures, None, STRUCTURE), STRUCTURE, sc, formulas, n_folds=10, seed=0)
    return Materials(sc, predicted, np.array([label.cpu_s for label in labels]) / 3600)


@dataclass(frozen=True)
class Setting:
    """What a campaign was set up with, known to its policy."""

    threshold: float
    n_compute: int
    n_audit: int
    alpha: float = ALPHA


# A policy says which of the pool are left at IPA: (pool, setting, rng) -> mask. It may know everything but the draw.
Policy = Callable[[Materials, Setting, np.random.Generator], Mask]


def all_but_lowest(value: Array, n_compute: int) -> Mask:
    left = np.ones(len(value), dtype=bool)
    left[np.argsort(value, kind="stable")[:n_compute]] = False
    return left


def stop_when_it_looks_good(pool: Materials, setting: Setting, rng: np.random.Generator) -> Mask:
    """By prediction, ten at a time, until none of the ten is low: what is found decides when S is frozen."""
    order = np.argsort(pool.predicted, kind="stable")[: len(pool) - 2 * setting.n_audit]
    low = pool.sc[order] < setting.threshold
    end = next((k for k in range(10, len(order), 10) if not low[k - 10 : k].any()), len(order))
    return all_but_lowest(pool.predicted, end)


@cache
def chance_of_a_miss(n_members: int, n_audit: int, alpha: float) -> Array:
    """How often the bound is below K, for K = 0 to N, as far as up to three hits tell."""
    # The bound is below K if as many hits, or fewer, have a probability below alpha.
    chance = hypergeom.cdf(np.arange(4)[:, None], n_members, np.arange(n_members + 1), n_audit)
    return np.where(chance < alpha, chance, 0.0).max(axis=0)


def worst_case(pool: Materials, setting: Setting, rng: np.random.Generator) -> Mask:
    """Knows every SC and leaves that number of low ones for which the bound is most often too small."""
    low, high = (
        rng.permutation(np.flatnonzero(m)) for m in (pool.sc < setting.threshold, pool.sc >= setting.threshold)
    )
    n_left = len(pool) - setting.n_compute
    possible = slice(max(0, n_left - len(high)), min(n_left, len(low)) + 1)
    keep = possible.start + int(chance_of_a_miss(n_left, setting.n_audit, setting.alpha)[possible].argmax())
    left = np.zeros(len(pool), dtype=bool)
    left[low[:keep]] = left[high[: n_left - keep]] = True
    return left


POLICIES: dict[str, Policy] = {
    "by prediction": lambda p, s, rng: all_but_lowest(p.predicted, s.n_compute),
    "by true SC with noise": lambda p, s, rng: all_but_lowest(p.sc + rng.normal(0.0, 0.05, len(p)), s.n_compute),
    "leaves few: lowest SC first": lambda p, s, rng: all_but_lowest(p.sc, s.n_compute),
    "leaves many: highest SC first": lambda p, s, rng: all_but_lowest(-p.sc, s.n_compute),
    "stops when it looks good": stop_when_it_looks_good,
    "worst case for the bound": worst_case,
    "random": lambda p, s, rng: all_but_lowest(rng.random(len(p)), s.n_compute),
}

# An audit draws from what is left and says what came of it: (left, setting, seed, rng) -> outcome.
Audit = Callable[[Materials, Setting, int, np.random.Generator], AuditOutcome]


def drawn(left: Materials, n: int, seed: int, look: int = 0) -> Indices:
    """Indices of n members, by their names."""
    return np.array([int(i) for i in draw(NAMES[: len(left)], n, seed, look)], dtype=np.int64)


def outcome(low: Mask, returned: Mask, n_given_up: int = 0) -> AuditOutcome:
    """Of a draw whose members are `low` or not and came back or not."""
    return AuditOutcome(len(low), int((low & returned).sum()), int((~returned).sum()), n_given_up)


def all_known(low: Mask) -> AuditOutcome:
    return outcome(low, np.ones(len(low), dtype=bool))


def all_return(left: Materials, setting: Setting, seed: int, rng: np.random.Generator) -> AuditOutcome:
    return all_known(left.sc[drawn(left, setting.n_audit, seed)] < setting.threshold)


def some_fail(low: float, high: float, *, left_out: bool = False) -> Audit:
    """Members fail with these probabilities, as they are low or high."""

    def audit(left: Materials, setting: Setting, seed: int, rng: np.random.Generator) -> AuditOutcome:
        is_low = left.sc[drawn(left, setting.n_audit, seed)] < setting.threshold
        returned = rng.random(len(is_low)) >= np.where(is_low, low, high)
        return all_known(is_low[returned]) if left_out else outcome(is_low, returned)

    return audit


def money_kept(left: Materials, setting: Setting) -> float:
    """CPU-hours for `n_audit` members of mean reservation."""
    return float(left.reserve_cpu_h.mean() * setting.n_audit)


def within_money(sample: Callable[[Array, float], AuditSample]) -> Audit:
    """Whom and as many as `sample` says, cheapest first.

    A run needs its whole reservation to start and gives back what it left. Reservations are 95 % quantiles of
    log-normal costs; a run that reaches its own is killed, paid, and tried once more under twice as much.
    """

    def audit(left: Materials, setting: Setting, seed: int, rng: np.random.Generator) -> AuditOutcome:
        kept = money_kept(left, setting)
        planned = sample(left.reserve_cpu_h, kept)
        may_draw = np.flatnonzero(planned.may_draw(left.reserve_cpu_h))
        chosen = may_draw[drawn(left.some(may_draw), planned.n_drawn, seed)]
        chosen = chosen[np.argsort(left.reserve_cpu_h[chosen])]
        cost = left.reserve_cpu_h[chosen] * np.exp(COST_LOG_SD * (rng.standard_normal(len(chosen)) - norm.ppf(0.95)))
        returned = np.zeros(len(chosen), dtype=bool)
        for cap in (left.reserve_cpu_h[chosen], 2 * left.reserve_cpu_h[chosen]):
            for k in np.flatnonzero(~returned):
                if cap[k] <= kept:
                    kept -= min(cap[k], cost[k])
                    returned[k] = cost[k] <= cap[k]
        return outcome(left.sc[chosen] < setting.threshold, returned, planned.n_given_up)

    return audit


def whoever_fits(left: Materials, setting: Setting, seed: int, rng: np.random.Generator) -> AuditOutcome:
    """A random order that passes over members the money left does not pay for; who was paid is called the sample."""
    kept, paid = money_kept(left, setting), []
    for i in drawn(left, len(left), seed):
        if left.reserve_cpu_h[i] <= kept:
            kept -= left.reserve_cpu_h[i]
            paid.append(i)
    return all_known(left.sc[paid] < setting.threshold)


def where_low_are_dear(audit: Audit) -> Audit:
    """The same where every low member costs 20 times a high one."""

    def dear(left: Materials, setting: Setting, seed: int, rng: np.random.Generator) -> AuditOutcome:
        cost = np.where(left.sc < setting.threshold, 20.0, 1.0)
        return audit(replace(left, reserve_cpu_h=cost), setting, seed, rng)

    return dear


def mean_fits(reserve_cpu_h: Array, kept_cpu_h: float) -> AuditSample:
    """As many as the money pays at their mean reservation: some may stay unpaid."""
    return AuditSample(int(len(reserve_cpu_h) * kept_cpu_h / reserve_cpu_h.sum() * (1 + 1e-12)))


def dearest_fit(reserve_cpu_h: Array, kept_cpu_h: float) -> AuditSample:
    """As many as could be paid if they were the dearest."""
    return AuditSample(int((np.cumsum(np.sort(reserve_cpu_h)[::-1]) <= kept_cpu_h).sum()))


# How the worst case's set is audited.
AUDITS: dict[str, Audit] = {
    MONEY: within_money(audit_sample),
    "money: at their mean": within_money(mean_fits),
    "money: only if the dearest fit": within_money(dearest_fit),
    "money: audit_sample, low ones dear": where_low_are_dear(within_money(audit_sample)),
    "[money: whoever fits, low ones dear]": where_low_are_dear(whoever_fits),
    "5 % fail": some_fail(0.05, 0.05),
    "half of the low fail": some_fail(0.5, 0.0),
    "[half of the low fail, left out]": some_fail(0.5, 0.0, left_out=True),
}


@dataclass(frozen=True)
class Trial:
    """One statement, and the truth.

    Attributes
    ----------
    n_low : low ones there were
    bound : on their number
    simple : the median bound of a simple random sample as large, all of it computed
    """

    n_low: int
    bound: AuditBound
    simple: AuditBound

    @property
    def missed(self) -> bool:
        return self.n_low > self.bound.n_low


@cache
def median_bound(n_members: int, n_low: int, n_drawn: int) -> AuditBound:
    return audit_bound(n_members, AuditOutcome(n_drawn, int(hypergeom.median(n_members, n_low, n_drawn)), 0))


def closing(left: Materials, setting: Setting, audit: Audit, seed: int, rng: np.random.Generator) -> Trial:
    """The closing audit of S."""
    found, n_low = audit(left, setting, seed, rng), int((left.sc < setting.threshold).sum())
    return Trial(n_low, bound_of(len(left), found), median_bound(len(left), n_low, found.n_drawn))


def new_pool(materials: Materials, rng: np.random.Generator) -> tuple[Materials, Setting]:
    """Another pool, threshold, budget and audit size for each campaign."""
    pool = materials.some(rng.choice(len(materials), round(POOL_SHARE * len(materials)), replace=False))
    n_compute = round(rng.choice(COMPUTED_SHARES) * len(pool))
    sizes = [n for n in AUDIT_SIZES if 2 * n <= len(pool) - n_compute]
    return pool, Setting(float(rng.choice(THRESHOLDS)), n_compute, int(rng.choice(sizes)))


def campaign(materials: Materials, policy: Policy, audit: Audit, seed: int) -> Trial:
    """One campaign, from its pool to its statement."""
    rng = np.random.default_rng(seed)
    pool, setting = new_pool(materials, rng)
    return closing(pool.some(policy(pool, setting, rng)), setting, audit, seed, rng)


def campaign_with_looks(materials: Materials, policy: Policy, spending: bool, seed: int) -> tuple[bool, Trial]:
    """Whether any look's bound was below the truth; and the closing statement of a campaign that its looks may stop.

    Between looks the policy computes, and what a look drew has left, too.
    """
    rng = np.random.default_rng(seed)
    left, setting = new_pool(materials, rng)
    step, stop_at, missed = round(STEP_SHARE * len(left)), rng.choice(STOP_AT), False
    for look in range(1, N_LOOKS + 1):
        alpha = alpha_of_look(look) if spending else ALPHA
        left = left.some(policy(left, Setting(setting.threshold, step, DRAWN_A_LOOK, alpha), rng))
        chosen = drawn(left, DRAWN_A_LOOK, seed, look)
        low = left.sc < setting.threshold
        bound = bound_of(len(left), all_known(low[chosen]), ALPHA, look if spending else None)
        missed |= int(low.sum()) > bound.n_low
        left = left.some(np.setdiff1d(np.arange(len(left)), chosen))
        if bound.share <= stop_at:
            break
    last = Setting(setting.threshold, 0, min(DRAWN_A_LOOK, len(left) // 2))
    return missed, closing(left, last, all_return, seed, rng)


def summary(missed: Sequence[bool], trials: Sequence[Trial] = ()) -> dict[str, float]:
    """Share of misses with its 95 % interval; medians of what the trials brought."""
    n_missed = int(np.sum(missed))
    lo, hi = binomtest(n_missed, len(missed)).proportion_ci(0.95, "exact")
    out = {"campaigns": len(missed), "missed": n_missed, "share": n_missed / len(missed), "lo": lo, "hi": hi}
    if trials:
        out |= {
            "members": float(np.median([t.bound.n_members for t in trials])),
            "drawn": float(np.median([t.bound.outcome.n_drawn for t in trials])),
            "no_result": float(np.mean([t.bound.outcome.n_failed for t in trials])),
            "truth": float(np.median([t.n_low / t.bound.n_members for t in trials])),
            "bound": float(np.median([t.bound.share for t in trials])),
            "ratio": float(np.median([t.bound.share / t.simple.share for t in trials if t.simple.n_low])),
        }
    return {k: float(v) for k, v in out.items()}


def simulate(materials: Materials, n: int) -> dict[str, dict[str, float]]:
    """All rows for one source: n campaigns a policy, half as many for the rows on money, failures and looks."""
    rows = {}
    together: list[Trial] = []
    for name, policy in POLICIES.items():
        trials = [campaign(materials, policy, all_return, seed) for seed in range(n)]
        rows[name] = summary([t.missed for t in trials], trials)
        together += trials
    rows["all policies"] = summary([t.missed for t in together], together)
    for name, audit in AUDITS.items():
        trials = [campaign(materials, worst_case, audit, seed) for seed in range(n // 2)]
        rows[name] = summary([t.missed for t in trials], trials)
    for spending, name in ((True, "looks"), (False, "[looks, each with the full error]")):
        looks = [campaign_with_looks(materials, worst_case, spending, seed) for seed in range(n // 2)]
        rows[name] = summary([missed for missed, _ in looks])
        if spending:
            rows["closing audit after looks"] = summary([t.missed for _, t in looks], [t for _, t in looks])
    return rows


def verdict(rows: dict[str, dict[str, float]]) -> bool:
    """Misses at most 6 % wherever the rules are kept; bound at most 1.2 times a simple sample's where none fails."""
    kept = {k: r for k, r in rows.items() if not k.startswith("[")}
    wide = [rows[k]["ratio"] for k in (*POLICIES, "all policies", MONEY)]
    return all(r["share"] <= MOST_MISSES for r in kept.values()) and max(wide) <= MOST_WIDE


def show(rows: dict[str, dict[str, float]]) -> None:
    columns = f"{'N':>5s}{'n':>5s}{'no res.':>9s}{'true':>8s}{'bound':>8s}{'ratio':>7s}"
    print(f"  {'':44s}{'missed':>7s}  {'95 % interval':15s} {columns}")
    for name, r in rows.items():
        line = f"  {name:44s}{r['share']:7.2%}  {r['lo']:6.2%} -{r['hi']:6.2%} "
        if "bound" in r:
            line += (
                f"{r['members']:5.0f}{r['drawn']:5.0f}{r['no_result']:9.2f}{r['truth']:8.1%}{r['bound']:8.1%}"
                f"{r['ratio']:7.2f}"
            )
        print(line)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--campaigns", type=int, default=N_CAMPAIGNS, help="a policy")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    a = parser.parse_args(argv)
    start = time.process_time()
    figures: dict[str, object] = {"campaigns": a.campaigns, "manifest": a.manifest.name, "alpha": ALPHA}
    for name, materials in (("paper's Fig. 6", paper_pairs()), ("shipped labels", shipped_labels(a.manifest))):
        low = ", ".join(f"{(materials.sc < t).sum()} under {t:g}" for t in THRESHOLDS)
        print(f"{name}: {len(materials)} materials ({low}), {a.campaigns} campaigns a policy")
        rows = simulate(materials, a.campaigns)
        show(rows)
        print(f"  missed at most {MOST_MISSES:.0%}, ratio at most {MOST_WIDE}: {'yes' if verdict(rows) else 'NO'}")
        figures[name] = rows | {"accepted": verdict(rows)}
    figures["cpu_s"] = time.process_time() - start
    print(f"{figures['cpu_s']:.0f} CPU s")
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
