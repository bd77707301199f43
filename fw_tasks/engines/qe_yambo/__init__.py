"""Quantum ESPRESSO + Yambo: the protocol of Grunert, Großmann and Runge, Nat. Commun. 16, 8142 (2025)."""

from __future__ import annotations

from fw_tasks.engines.qe_yambo.engine import QEYamboEngine

__all__ = ["QEYamboEngine"]
