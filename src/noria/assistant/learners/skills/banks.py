"""Banks of skills in a turn: the one that serves, and the one that a learner proposes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from noria.assistant.parts.skills import SkillSettings, SkillsPart, read_settings, write_artefact
from noria.core.errors import needing
from noria.core.learning.learner import LearnerRun, Parent

with needing("skills"):
    from noria.skills.bank.bank import Bank, read_bank

KIND = "skills"
"""Kind of the artefacts that hold a bank."""


class PresentBank(NamedTuple):
    """The bank that serves, as a part that routes, and the settings of its routing."""

    part: SkillsPart
    settings: SkillSettings


def present_bank(parent: Parent, run: LearnerRun) -> PresentBank | None:
    """The bank of the bundle that serves; None, with the reason in the run, where it has no skills."""
    folder = parent.folder(KIND)
    if folder is None:
        run.reasons.append("the bundle has no skills")
        return None
    settings = read_settings(folder)
    return PresentBank(SkillsPart(read_bank(folder), settings), settings)


def written_bank(bank: Bank, settings: SkillSettings, run: LearnerRun) -> Path:
    """Write a bank that a learner proposes as an artefact into the folder of its run: the artefact's folder."""
    target = run.folder / "bank"
    # A run that was killed may have left a part of it; the same evidence gives the same bank.
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_artefact(bank, target, settings)
    return target
