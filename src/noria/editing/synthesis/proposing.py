"""Synthesis of tasks over a chat model [RECONSTRUCTED]: scene, instruction and reference of a leaf or a picture."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.core.chat import ChatModel, Image as ImagePart, Message, system, user
from noria.core.errors import DataError, NoriaError
from noria.editing.data.tasks import Reference
from noria.editing.synthesis.checklists import read_reference
from noria.editing.synthesis.replies import ask_for

PROPOSAL_INSTRUCTION = """\
You invent tasks for image editors that must reason. A task names an event, a cause, a change of place or a rule, and \
never says what comes of it; the reference says it. Reply with a JSON object and nothing else:
{"tasks": [{"scene": "what the picture before the edit shows, for an artist who draws it",
"instruction": "what the user asks for, one sentence, without the outcome", "outcome": "the scene after the edit",
"must_change": ["one visible fact each"], "must_keep": ["one visible fact each"], "why": "one sentence",
"forbidden": ["results that would be wrong"]}]}"""

SAME_INSTRUCTION = """\
Two people worked out independently what a picture looks like after an edit. Say whether they describe the same \
outcome in everything that can be seen. Reply with a JSON object and nothing else: {"same": true} or {"same": false}."""

RETELL_INSTRUCTION = """\
A picture and a request to edit it are described to you. Work out what the picture must look like afterwards. Reply \
with a JSON object and nothing else:
{"outcome": "...", "must_change": ["..."], "must_keep": ["..."], "why": "...", "forbidden": ["..."]}"""
_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "of",
        "in",
        "on",
        "to",
        "and",
        "it",
        "its",
        "with",
        "as",
        "at",
        "by",
        "be",
        "was",
        "that",
        "this",
        "into",
        "from",
        "has",
        "have",
    ]
)


@dataclass(frozen=True)
class Proposal:
    """A task without a picture yet: the scene to draw, the request, the reference."""

    scene: str
    instruction: str
    reference: Reference


async def propose(
    model: ChatModel, family: str, leaf: str, number: int, *, sample: int = 0, language: str = "English"
) -> tuple[list[Proposal], list[str]]:
    """Let a model invent tasks of a leaf.

    Args:
        model: chat model.
        family: family of the edits.
        leaf: kind of the edits.
        number: how many.
        sample: number of the draw.
        language: language of the instructions; scenes and references are in English.

    Returns:
        Tasks that are well formed, and why others were left out.

    Raises:
        DataError: no reply could be read.
        ModelError: the model did not answer.
    """
    text = f"Family: {family}. Kind: {leaf}. Invent {number} tasks, each of another setting."
    if language != "English":
        text += f" Write the instructions in {language}, and the rest in English."
    return await _asked(model, (system(PROPOSAL_INSTRUCTION), user(text)), sample)


async def propose_for(
    model: ChatModel, picture: ImagePart, family: str, leaf: str, number: int, *, sample: int = 0
) -> tuple[list[Proposal], list[str]]:
    """Let a model invent tasks of a leaf for a picture that is there; the arguments are those of `propose`."""
    text = (
        f"Family: {family}. Kind: {leaf}. Invent {number} tasks for this picture; its scene is what you see."
    )
    return await _asked(model, (system(PROPOSAL_INSTRUCTION), user(picture, text)), sample)


async def _asked(
    model: ChatModel, messages: tuple[Message, ...], sample: int
) -> tuple[list[Proposal], list[str]]:
    return await ask_for(model, messages, read_proposals, temperature=0.9, sample=sample, max_tokens=8192)


def read_proposals(value: Any) -> tuple[list[Proposal], list[str]]:
    """Read proposals of a model's JSON; those that break a rule are left out, each with its reason.

    Raises:
        DataError: there is no list of them.
    """
    entries = value.get("tasks") if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise DataError("no list of tasks", where="tasks")
    proposals, reasons = [], []
    for entry in entries:
        try:
            proposal = _proposal(entry)
        except DataError as error:
            reasons.append(error.what)
            continue
        if why := gives_away(proposal):
            reasons.append(why)
        else:
            proposals.append(proposal)
    return proposals, reasons


def _proposal(entry: Any) -> Proposal:
    if not isinstance(entry, Mapping):
        raise DataError("a task is no object")
    texts = [entry.get("scene"), entry.get("instruction")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError("a task without scene or instruction")
    return Proposal(str(texts[0]).strip(), str(texts[1]).strip(), read_reference(entry))


def gives_away(proposal: Proposal) -> str:
    """Why a request states its outcome, in a phrase; empty where it does not.

    It does where it has most of the telling words of a change: those that neither the scene nor the stop words have.
    """
    known = _telling(proposal.scene)
    said = _telling(proposal.instruction)
    for fact in proposal.reference.must_change:
        new = _telling(fact) - known
        if len(new) >= 2 and len(new & said) >= 0.75 * len(new):
            return "the request states its outcome"
    return ""


def _telling(text: str) -> set[str]:
    """Stems of a text's words, without the stop words."""
    stems = (re.sub(r"(?<=\w{3})(?:ing|ed|es|s)$", "", word) for word in re.findall(r"\w+", text.lower()))
    return {stem[:6] for stem in stems if stem not in _STOP}


async def consistent(
    model: ChatModel, proposal: Proposal, pictures: Sequence[ImagePart] = (), *, draws: int = 2
) -> bool | None:
    """Whether references that are written anew, without seeing the first, agree with it.

    Args:
        model: chat model.
        proposal: task to test.
        pictures: pictures of the task; without them the scene is described in words.
        draws: references that are written; with the first one they are three.

    Returns:
        None where a reply could not be had.
    """

    async def agrees(sample: int) -> bool:
        scene = () if pictures else (f"Picture: {proposal.scene}",)
        messages = (system(RETELL_INSTRUCTION), user(*pictures, *scene, f"Request: {proposal.instruction}"))
        other = await ask_for(model, messages, read_reference, temperature=0.8, sample=sample)
        texts = (f"First:\n{proposal.reference.text}", f"Second:\n{other.text}")
        return await ask_for(model, (system(SAME_INSTRUCTION), user(*texts)), _read_same)

    try:
        return all(await asyncio.gather(*(agrees(sample) for sample in range(1, draws + 1))))
    except NoriaError:
        return None


def _read_same(value: Any) -> bool:
    same = value.get("same") if isinstance(value, Mapping) else None
    if not isinstance(same, bool):
        raise DataError("same is true or false")
    return same
