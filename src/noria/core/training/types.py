"""Names of the ways to scale advantages and to average a loss, for settings that load no framework."""

from __future__ import annotations

from typing import Literal

Scale = Literal["group", "batch", "none"]
"""Divisor of a centred reward: the deviation of its group (GRPO) or of all rows, or nothing (Dr.GRPO)."""

Aggregation = Literal["grpo", "dapo", "dr_grpo"]
"""
grpo     the mean over sequences of each one's mean over its tokens (arXiv 2402.03300)
dapo     the mean over all tokens (arXiv 2503.14476)
dr_grpo  the sum over tokens, over sequences × the longest length allowed (arXiv 2503.20783)
"""
