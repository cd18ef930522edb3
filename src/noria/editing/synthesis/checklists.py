"""Synthesis of references and checklists over a chat model [RECONSTRUCTED: the paper's prompts are not public].

A checklist is written from picture, instruction *and* reference: grounded in the reference, its items have less noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from noria.core.chat import ChatModel, Image as ImagePart, system, user
from noria.core.errors import DataError
from noria.core.judging.items import Checklist
from noria.editing.checklists.items import DIMENSIONS, EditItem, read_item
from noria.editing.data.tasks import Reference
from noria.editing.safety import alternated
from noria.editing.synthesis.replies import ask_for
from noria.editing.types import PATHS, Path

MOST_ITEMS = 6
"""Most items of a path."""

REFERENCE_INSTRUCTION = """\
You say what a picture must look like after an edit. You see the picture and the request. Work out the result of the \
event, the cause, the change of place or the rule that the request names, and reply with a JSON object and nothing else:
{"outcome": "the scene after the edit, in two or three sentences", "must_change": ["one visible fact each"], \
"must_keep": ["one visible fact each that stays as it is"], "why": "the reason, in a sentence", "forbidden": ["results \
that would be wrong"]}"""

CHECKLIST_INSTRUCTION = """\
You write a checklist for an edit of a picture. You see the picture, the request, and a reference that says what the \
result must be. The plan of the edit and the edited picture are judged apart, by people who do not see the reference.

Reply with a JSON object and nothing else: {"cognitive": [items], "visual": [items]}, at most six items each. An item \
is {"id", "dim", "question", "polarity", "role", "evidence", "required"}:
- question: one fact, answered by yes or no; from the text of the plan alone under cognitive, from the two pictures \
alone under visual. It speaks of an outcome, never of a method or a tool, and never of "the reference".
- dim: intent, logic or executability under cognitive; instruction, consistency or realism under visual.
- polarity: the answer that is right for the reference. Make it "no" for about half of the items, by asking for what \
must not be there.
- role: "change" for what the edit must bring about and the picture before it does not show, "keep" for what must \
stay, "quality" for the rest.
- evidence: the words of the reference that the item comes from, copied exactly.
- required: true where an edit that fails this item is not worth looking at.
Have at least one item of role change and one of role keep on each side."""

_DOUBLE = re.compile(r"\band (?:is|are|does|do|has|have|also)\b|\bas well as\b|;", re.IGNORECASE)
_METHOD = re.compile(
    r"\b(?:layer|brush|photoshop|inpaint\w*|prompt|diffusion|tool|software|algorithm|model)\b", re.IGNORECASE
)
_REFERENCE = re.compile(r"\bthe reference\b", re.IGNORECASE)
_PICTURE = re.compile(r"\b(?:edited|resulting|second|output) (?:image|picture|photo)\b", re.IGNORECASE)
_PLAN = re.compile(r"\bthe plan\b", re.IGNORECASE)


async def write_reference(
    model: ChatModel, pictures: Sequence[ImagePart], instruction: str, *, sample: int = 0
) -> Reference:
    """Let a model write the reference of a request.

    Args:
        model: chat model that sees pictures.
        pictures: pictures of the request, encoded.
        instruction: what is asked for.
        sample: number of the draw; above 0 at a temperature of 0.8.

    Raises:
        DataError: no reply could be read.
        ModelError: the model did not answer.
    """
    messages = (system(REFERENCE_INSTRUCTION), user(*pictures, f"Request: {instruction}"))
    return await ask_for(model, messages, read_reference, sample=sample, temperature=0.8 if sample else 0.0)


def read_reference(value: Any) -> Reference:
    """Read a reference of a model's JSON.

    Raises:
        DataError: it has no outcome, or a list of something else than texts.
    """
    if (
        not isinstance(value, Mapping)
        or not isinstance(value.get("outcome"), str)
        or not value["outcome"].strip()
    ):
        raise DataError("no outcome", where="reference")
    lists: dict[str, tuple[str, ...]] = {}
    for name in ("must_change", "must_keep", "forbidden"):
        given = value.get(name) or []
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise DataError(f"{name} is not a list of texts", where="reference")
        lists[name] = tuple(one.strip() for one in given if one.strip())
    return Reference(
        value["outcome"].strip(),
        lists["must_change"],
        lists["must_keep"],
        str(value.get("why") or ""),
        lists["forbidden"],
    )


async def write_checklist(
    model: ChatModel, pictures: Sequence[ImagePart], instruction: str, reference: Reference
) -> tuple[Checklist, dict[str, str]]:
    """Let a model write the checklist of a request, and keep the items that are well formed.

    Args:
        model: chat model that sees pictures.
        pictures: pictures of the request, encoded.
        instruction: what is asked for.
        reference: what the result must be.

    Returns:
        The checklist, with alternating polarity; and why other items were dropped, by their id.

    Raises:
        DataError: no reply could be read, or no item of a path is left.
        ModelError: the model did not answer.
    """
    text = f"Request: {instruction}\n\nReference:\n{reference.text}\nWhy: {reference.why}"
    if reference.forbidden:
        text += "\nWrong results: " + "; ".join(reference.forbidden)
    messages = (system(CHECKLIST_INSTRUCTION), user(*pictures, text))
    return await ask_for(model, messages, lambda value: read_synthesis(value, reference))


def read_synthesis(value: Any, reference: Reference) -> tuple[Checklist, dict[str, str]]:
    """Read a checklist of a model's JSON; items that break a rule are dropped, each with its reason.

    Raises:
        DataError: it is no checklist, or no item of a path is left.
    """
    if not isinstance(value, Mapping):
        raise DataError("not an object of cognitive and visual items", where="checklist")
    kept: list[EditItem] = []
    dropped: dict[str, str] = {}
    for path in PATHS:
        entries = value.get(path)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"no {path} items", where="checklist")
        for number, entry in enumerate(entries):
            identity = f"{path[0]}{number + 1}"
            why = "more than six items" if number >= MOST_ITEMS else ""
            item = None
            if not why:
                item, why = _item(entry, path, identity, reference)
            if item is None:
                dropped[identity] = why
            else:
                kept.append(item)
        if not any(item.path == path for item in kept):
            raise DataError(
                f"no {path} item is well formed: {next(iter(dropped.values()))}", where="checklist"
            )
    return alternated(Checklist(tuple(kept))), dropped


def _item(entry: Any, path: Path, identity: str, reference: Reference) -> tuple[EditItem | None, str]:
    """An item of a model's reply under an id of ours, or why it is none."""
    if not isinstance(entry, Mapping):
        return None, "not an object"
    fields = {
        k: entry[k] for k in ("dim", "question", "polarity", "role", "evidence", "required") if k in entry
    }
    if fields.get("dim") not in DIMENSIONS[path]:
        fields["dim"] = DIMENSIONS[path][0]
    if fields.get("role") not in ("change", "keep", "quality"):
        fields["role"] = "quality"
    if path == "visual":
        fields.pop("required", None)
    try:
        item = read_item({"id": identity, **fields}, path, where=identity)
    except DataError as error:
        return None, error.what
    why = fault(item, reference)
    return (None, why) if why else (item, "")


def fault(item: EditItem, reference: Reference | None) -> str:
    """Why an item is not well formed, in a phrase; empty where it is.

    One fact that can be answered from what its judge sees, an outcome and no method, with words of the reference as its
    evidence.
    """
    question = item.question.strip()
    if not question.endswith("?"):
        return "not a question"
    if len(question) > 300:
        return "too long for one fact"
    if _DOUBLE.search(question):
        return "two facts in one question"
    if _METHOD.search(question):
        return "about a method, not an outcome"
    if _REFERENCE.search(question):
        return "about the reference, which its judge does not see"
    if item.path == "cognitive" and _PICTURE.search(question):
        return "about the edited picture, which the plan's judge does not see"
    if item.path == "visual" and _PLAN.search(question):
        return "about the plan, which the picture's judge does not see"
    if reference is not None and item.role != "quality" and not cites(item.evidence, reference):
        return "its evidence is not in the reference"
    return ""


def cites(evidence: str, reference: Reference) -> bool:
    """Whether the evidence is a span of the reference, up to case, blanks and marks."""
    whole = _plain("\n".join((reference.text, reference.why, *reference.forbidden)))
    return bool(_plain(evidence)) and _plain(evidence) in whole


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
