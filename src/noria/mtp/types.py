"""Names and limits that all rooms of this system share; nothing here needs PyTorch."""

from __future__ import annotations

from typing import Literal

MAX_GAMMA = 32
"""The most drafts a round may have."""

Rule = Literal["rejection", "target_only", "match", "block"]
LossName = Literal["ce", "kl_div", "rkl", "tv", "nla", "lk_hybrid", "e2e_tv", "e2e_tv_exact"]
LayoutName = Literal["qwen", "deepseek", "mimo"]
ChainAttention = Literal["ttt", "parallel"]
SmallHead = Literal["ce", "e2e_tv"]
"""A head that ships: trained on cross-entropy, as pretraining leaves it, and that head tuned on end-to-end TV."""
