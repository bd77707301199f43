"""How many of the materials left at IPA have SC below the threshold: a bound from a random draw among them.

S is a set of N materials without an RPA result, K of them with SC below the threshold; n members are drawn at random
without replacement and computed. The bound is the exact one-sided hypergeometric one, for a finite set what Clopper and
Pearson, Biometrika 26, 404 (1934), is for the binomial (Buonaccorsi, Am. Stat. 41, 215 (1987); Wright, *Exact
Confidence Bounds when Sampling from Small Finite Universes*, Springer 1991). It knows nothing of predictions and holds
however S came about, under three conditions:

1. **S is fixed before the draw**, threshold and settings too. It may depend on earlier results in any way.
2. **n is fixed before the draw**. It may depend on S and on predicted costs (`selector.audit_pot`), not on which
   members are drawn: a sample of whoever fits into the money left favours the cheap, and cost goes with SC.
3. **Every drawn member counts**. One without an SC (failed, not paid for, not back yet) counts as below the threshold,
   whatever the reason. As results come in the bound can only fall, so looking at it meanwhile costs no error.

Members may be *given up* before the draw, whatever the rule: the draw is from the others, the bound theirs, and each of
those given up is added to it as if it were below.

The closing audit is such a draw from what is left when the campaign closes, with the whole error `alpha`: exact,
whatever made the campaign close. During the campaign the policy takes from what is left, and draws from the shrinking
set do not add up to a sample of what is left at the end. So a *look* freezes the S_k of its moment and draws anew;
the policy may go on meanwhile. Look k gets ``alpha / (k (k + 1))``, which sums to alpha: with probability 1 - alpha
every look's bound holds, hence also the one that stopped the campaign. It is a statement about S_k; a later S' within
S_k holds at most its number less the members of S_k found below the threshold since. Looks and closing audit are two
statements, each with its own alpha.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from selector.errors import UsageError

ALPHA = 0.05
"""The error allowed to a statement: it holds with probability 1 - ALPHA at least."""
_TIE = 1e-7  # relative; the distribution function is good to 1e-9 at N = 1e6
_STREAM = 0x0A0D17  # so that the draw shares no random number with a policy of the same seed


@dataclass(frozen=True)
class AuditOutcome:
    """What came of a draw.

    Attributes
    ----------
    n_drawn : members drawn, computed or not
    n_below : of these, SC computed and below the threshold
    n_failed : of these, no SC: the run failed, was not paid for, or is not back yet. Each counts as below
    n_given_up : members given up before the draw. Each counts as below
    """

    n_drawn: int
    n_below: int
    n_failed: int
    n_given_up: int = 0

    def __post_init__(self) -> None:
        least = min(self.n_drawn, self.n_below, self.n_failed, self.n_given_up)
        if least < 0 or self.hits > self.n_drawn:
            raise ValueError(f"{self.n_below} below and {self.n_failed} failed of {self.n_drawn} drawn")

    @property
    def hits(self) -> int:
        """What the bound counts of the drawn: below the threshold, or not known to be above it."""
        return self.n_below + self.n_failed


@dataclass(frozen=True)
class AuditBound:
    """A statement about a set of materials left at IPA.

    Attributes
    ----------
    n_members : N, size of the set when it was frozen, drawn members included
    outcome : of the draw
    n_low : at most so many of the N have SC below the threshold
    alpha : the statement fails with this probability at most (for a look: all looks together)
    look : None for the closing audit; 1, 2, ... for a provisional bound
    """

    n_members: int
    outcome: AuditOutcome
    n_low: int
    alpha: float
    look: int | None = None

    @property
    def share(self) -> float:
        """`n_low` as a share of the set; 0 for an empty set."""
        return self.n_low / self.n_members if self.n_members else 0.0

    def sentence(self, threshold: float) -> str:
        """The statement in words; the percentage is rounded up."""
        o = self.outcome
        if self.n_members == 0:
            return "No material is left at IPA."
        if o.n_drawn == 0:
            return f"No audit: nothing is known of the {self.n_members} materials left at IPA."
        percent = math.ceil(1000 * self.n_low / self.n_members) / 10
        confidence = f"{100 * (1 - self.alpha):g} %"
        head, tail = "Of", f"({confidence})"
        if self.look is not None:
            head, tail = f"Provisional, look {self.look}: of", f"({confidence}, all looks together)"
        said = (
            f"{head} the {self.n_members} materials left at IPA, at most {percent:g} % {tail} "
            f"have SC below {threshold:g}"
        )
        counted = f", {o.n_failed} without a result and counted as below" if o.n_failed else ""
        given_up = f"; {o.n_given_up} too dear for the audit count as below, too" if o.n_given_up else ""
        return f"{said}: of {o.n_drawn} drawn at random, {o.n_below} below{counted}{given_up}."


def audit_bound(n_members: int, outcome: AuditOutcome, alpha: float = ALPHA, look: int | None = None) -> AuditBound:
    """The statement that a draw allows about the set it was drawn from.

    Parameters
    ----------
    n_members : N, size of the set frozen before the draw
    outcome : of the draw
    alpha : error of the closing statement, or of all looks together
    look : None for the closing audit; k = 1, 2, ... for the k-th look of the campaign, none left out

    Raises
    ------
    ValueError
        More drawn than there are members, alpha not between 0 and 1, or look < 1.
    """
    spent = alpha if look is None else alpha_of_look(look, alpha)
    given_up = outcome.n_given_up
    n_low = given_up + upper_bound(n_members - given_up, outcome.n_drawn, outcome.hits, spent)
    return AuditBound(n_members, outcome, n_low, alpha, look)


def alpha_of_look(look: int, alpha: float = ALPHA) -> float:
    """Error spent at the k-th look, ``alpha / (k (k + 1))``: over all looks, however many, it sums to alpha."""
    if look < 1:
        raise ValueError(f"look {look}: they are counted from 1")
    return alpha / (look * (look + 1))


def upper_bound(n_members: int, n_drawn: int, hits: int, alpha: float = ALPHA) -> int:
    """The largest K with ``P(X <= hits | N, K, n) > alpha``, X hypergeometric.

    If K members are hits, the bound comes out below K with probability at most alpha. A K at which the two sides are
    equal within rounding is not excluded. Nothing drawn: N. Everything drawn, or nothing but hits: hits, or N.

    Parameters
    ----------
    n_members, n_drawn : N and n
    hits : X, with every drawn member that has no result
    alpha : error probability

    Returns
    -------
    K, from hits to N - n + hits

    Raises
    ------
    ValueError
        Not 0 <= hits <= n <= N, or alpha not between 0 and 1.
    """
    if not 0 <= hits <= n_drawn <= n_members:
        raise ValueError(f"{hits} hits in {n_drawn} drawn of {n_members}")
    _check(alpha)
    numbers = range(hits, n_members - n_drawn + hits + 1)
    excluded = bisect_left(numbers, True, key=lambda k: _excluded(n_members, k, n_drawn, hits, alpha))
    return numbers[excluded - 1]  # the first is never excluded: P(X <= hits | K = hits) = 1


def audit_size(n_members: int, target_share: float, alpha: float = ALPHA, expected_hits: int = 0) -> int | None:
    """The smallest draw with which so many hits still give a bound at or below the target.

    With no hit, about ``-log(alpha) / target``, 3 / target for alpha = 0.05, and fewer where that is much of the set.

    Parameters
    ----------
    n_members : N, size of the set to be audited
    target_share : the share of low materials to be claimed
    alpha : as for :func:`audit_bound`; for the k-th look, :func:`alpha_of_look`
    expected_hits : low materials and failed runs that the draw shall survive

    Returns
    -------
    n, or None where even computing the whole set with that many hits misses the target

    Raises
    ------
    UsageError
        The target is not between 0 and 1.
    ValueError
        A count is negative, or alpha not between 0 and 1.
    """
    if not 0.0 <= target_share <= 1.0:
        raise UsageError(f"target share {target_share:g}: give a number between 0 and 1, such as 0.05 for 5 %")
    if n_members < 0 or expected_hits < 0:
        raise ValueError(f"{expected_hits} hits among {n_members}")
    _check(alpha)
    allowed = math.floor(target_share * n_members * (1 + 1e-12))
    if expected_hits > min(allowed, n_members):
        return None
    if allowed >= n_members:
        return expected_hits
    # The bound is at most `allowed` as soon as one more is excluded.
    sizes = range(expected_hits, n_members + 1)
    return sizes[bisect_left(sizes, True, key=lambda n: _excluded(n_members, allowed + 1, n, expected_hits, alpha))]


def draw(member_ids: Collection[str], n_drawn: int, seed: int, look: int = 0) -> list[str]:
    """Members of S drawn at random without replacement.

    The same for the same set, seed and look, in whatever order the members come; a smaller draw is the beginning of a
    larger one. Looks draw independently of each other and of the policies: what one draw brought decides what
    the next is made from.

    Parameters
    ----------
    member_ids : (N,) the frozen set
    n_drawn : n
    seed : of the campaign, fixed when it was made
    look : 0 for the closing audit, k for the k-th look

    Raises
    ------
    UsageError
        The seed is negative.
    ValueError
        An id stands twice, n is not from 0 to N, or look < 0.
    """
    if seed < 0:
        raise UsageError(f"seed {seed}: give an integer that is not negative")
    ids = sorted(member_ids)
    if len(set(ids)) != len(ids) or not 0 <= n_drawn <= len(ids) or look < 0:
        raise ValueError(f"{n_drawn} of {len(ids)} ids ({len(set(ids))} different), look {look}")
    order = np.random.default_rng([_STREAM, seed, look]).permutation(len(ids))
    return [ids[i] for i in order[:n_drawn]]


def _excluded(n_members: int, n_low: int, n_drawn: int, hits: int, alpha: float) -> bool:
    """Whether so few hits were too improbable with K = n_low; once true, true for every larger K and n."""
    from scipy.stats import hypergeom  # takes a second to load, and most commands look for no bound

    return bool(hypergeom.cdf(hits, n_members, n_low, n_drawn) < alpha * (1 - _TIE))


def _check(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")
