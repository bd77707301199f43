"""A policy of a user's own, good or broken."""

from __future__ import annotations

from typing import Any

import numpy as np

from selector.pool import Pool


class UsersPolicy:
    """It ranks as it was told: with what it was given, what that makes of the pool's size, or an error."""

    name = "mine"
    draws_at_random = False

    def __init__(self, answer: Any, words: str | Exception = "because") -> None:
        self.answer, self.words = answer, words

    def rank(self, pool: Pool, threshold: float, rng: np.random.Generator, n: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(len(pool)) if callable(self.answer) else self.answer

    def reason(self, pool: Pool, index: int, threshold: float) -> str:
        if isinstance(self.words, Exception):
            raise self.words
        return self.words

    def skip_reason(self, pool: Pool, index: int, threshold: float) -> str:
        return "not now"
