"""The server of the shop's judges: `python -m noria.assistant.world.judges.server PORT`, an OpenAI-compatible API.

It answers the checklists of :class:`noria.core.judging.ChatJudge` and the rubrics of the judges of bodies; a question
that it was not made for stays without an answer, and is an invalid verdict.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from noria.assistant.world.judges.model import (
    GAPS,
    QUESTIONS,
    Case,
    LearntJudge,
    is_short,
    kind_of,
    load_judges,
    names_what_belongs,
    verdicts,
)
from noria.core.chat.outcomes import Answer, Usage
from noria.core.completions.answers import completion
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.service.hosting import serve
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Service, route

_BLOCK = re.compile(
    r"(?:<<<material\n)?\b(Request|Answer|Tool calls):\n(?:<<<material\n)?(.*?)\nmaterial>>>", re.DOTALL
)
_SPEAKER = re.compile(r"(?:^|\n\n)(?:system|user|assistant|tool): ")
_QUESTION = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)
POINTS = {"TCR": 10, "CQ": 20, "CA": 10}
"""Points of the rubric's dimensions that apply to words."""


class JudgeServer:
    """Answers as the shop's judges.

    Args:
        judges: judges by their names.
    """

    def __init__(self, judges: Mapping[str, LearntJudge] | None = None) -> None:
        self.judges = dict(load_judges() if judges is None else judges)

    async def chat(self, request: Request) -> Response:
        """Answer a chat completion."""
        query = read_completion(await request.body())
        if query.model not in self.judges:
            raise HttpError(404, "model_not_found", f"models: {', '.join(self.judges)}", param="model")
        return json_response(completion(query.model, self.answer(query, query.model)))

    def answer(self, query: CompletionRequest, model: str) -> Answer:
        """What a judge says of the material in a request."""
        head = _text(next((one for one in query.messages if one.get("role") == "system"), {}))
        body = _text(query.messages[-1]) if query.messages else ""
        case, judge = read_case(body), self.judges[model]
        asked = body.rpartition("Questions:\n")[2] if "Questions:\n" in body else ""
        said = answered(case, judge, asked) if asked else points(case, judge, gaps='"gaps"' in head)
        text = json.dumps(said)
        return Answer(text, "stop", Usage(len(body.split()), len(text.split())))


def read_case(text: str) -> Case:
    """The last words of the user and the answer, out of a judge's request."""
    blocks = dict(_BLOCK.findall(text))
    request = blocks.get("Request", "")
    ends = [one.end() for one in _SPEAKER.finditer(request) if one.group().strip() == "user:"]
    if ends:
        request = _SPEAKER.split(request[ends[-1] :])[0]
    return Case(request.strip(), blocks.get("Answer", "").strip())


def answered(case: Case, judge: LearntJudge, questions: str) -> dict[str, Any]:
    """Answers to the questions that the judge knows."""
    said = {QUESTIONS[name]: good for name, good in verdicts(judge, case).items()}
    found = [
        {"number": int(number), "answer": "yes" if said[words.strip()] else "no", "reason": "by words"}
        for number, words in _QUESTION.findall(questions)
        if words.strip() in said
    ]
    return {"answers": found}


def points(case: Case, judge: LearntJudge, *, gaps: bool) -> dict[str, Any]:
    """Points of the rubric, and what is missing where that is asked for."""
    chance = judge.chance(case)
    keeps = names_what_belongs(case.answer) and is_short(case.answer)
    found: dict[str, Any] = {
        "TCR": round(POINTS["TCR"] * (0.5 + chance / 2)),
        "CQ": round(POINTS["CQ"] * chance),
        "CA": POINTS["CA"] if keeps else 3,
    }
    if gaps:
        kind = kind_of(case.answer)
        lacks = [] if names_what_belongs(case.answer) else [GAPS[kind]]
        found["gaps"] = {"CA": lacks} if lacks else {}
    return found


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return str(content or "")


def main() -> None:
    """Serve until a signal comes; argument: the port."""
    server = JudgeServer()
    routes = [route("/v1/chat/completions", server.chat, methods=("POST",), seconds=30.0)]
    serve(Service("judges", routes, access_log=False), port=int(sys.argv[1]) if len(sys.argv) > 1 else 0)


if __name__ == "__main__":
    main()
