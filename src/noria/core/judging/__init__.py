"""Judging by atomic questions, each answered with yes or no, or not at all.

A reply that cannot be parsed, a refusal and a time-out are *invalid*: they are counted and masked, and never become a
0, a 1 or a half. The score of a checklist is the share of good answers among the valid ones, with bounds that say how
far the invalid ones could move it.
"""

from noria.core.judging.agreement import Level, agreement, krippendorff_alpha
from noria.core.judging.items import Checklist, CostedJudge, Item, Judge, Judgement, Value, Verdict
from noria.core.judging.judges import INSTRUCTION, ChatJudge, RuleJudge, judged, quoted, read_verdicts
from noria.core.judging.scores import Score, ask_panel, combine, majority, score, score_paths

__all__ = [
    "INSTRUCTION",
    "ChatJudge",
    "Checklist",
    "CostedJudge",
    "Item",
    "Judge",
    "Judgement",
    "Level",
    "RuleJudge",
    "Score",
    "Value",
    "Verdict",
    "agreement",
    "ask_panel",
    "combine",
    "judged",
    "krippendorff_alpha",
    "majority",
    "quoted",
    "read_verdicts",
    "score",
    "score_paths",
]
