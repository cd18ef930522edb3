"""Each failure has one cause, and an outage is never blamed on words."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from noria.core.judging import Checklist, Item
from noria.core.learning.attribution import CAUSES, OUTAGES, Cause, attribute, attribute_all, failed
from noria.core.traces.records import (
    Candidate,
    Feedback,
    JudgementRecord,
    Span,
    SpanError,
    Trace,
    VerdictRecord,
)
from noria.core.traces.store import TraceView
from tests.core.learning_world import trace_id

PATHS = tuple(Item(cause, "Is it well?", path=cause) for cause in CAUSES)
LIST = Checklist((*PATHS, Item("rude", "Is it rude?", path="body", good="no")))
LISTS = {LIST.digest: LIST}
NAME = trace_id(1)
CHAT = Span("c", "chat", "m", 1, 2, input=[{"role": "user", "content": "hello"}], output="bad")


def judgement(
    *bad: str, score: float | None = 0.0, path: str = "judge", checklist: str = LIST.digest
) -> JudgementRecord:
    verdicts = tuple(
        VerdictRecord(item.id, "invalid" if item.id not in bad else "no" if item.good == "yes" else "yes")
        for item in LIST.items
    )
    return JudgementRecord("j", NAME, 3, "judge", "1", checklist, path, verdicts, score)


def view(*spans: Span, status: Any = "ok", said: tuple[Any, ...] = (), **labels: str) -> TraceView:
    trace = Trace(NAME, 1, 2, status, spans=(CHAT, *spans), labels=labels)
    return TraceView(
        trace,
        tuple(one for one in said if isinstance(one, Feedback)),
        tuple(one for one in said if isinstance(one, JudgementRecord)),
    )


def rating(value: float, **more: Any) -> Feedback:
    return Feedback(
        "f", NAME, more.pop("kind", "rating"), more.pop("name", "helpful"), 4, value, by="ann", **more
    )


def broken(kind: str, error: str, identity: str = "s") -> Span:
    return Span(identity, kind, "part", 1, 2, error=SpanError(error, ""))  # type: ignore[arg-type]


EVIDENCE: dict[Cause, tuple[tuple[Span, ...], tuple[Any, ...], dict[str, str]]] = {
    "infrastructure": ((broken("chat", "timeout", "i"),), (), {}),
    "routing": ((), (judgement("routing"),), {}),
    "tool": ((broken("tool", "arguments", "t"),), (), {}),
    "safety": ((), (judgement("safety"),), {}),
    "grounding": ((), (judgement("grounding"),), {}),
    "body": ((), (judgement("rude"),), {}),
    "model": ((), (judgement("model"),), {}),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_evidence(cause: Cause) -> None:
    spans, said, labels = EVIDENCE[cause]
    one = attribute(view(*spans, said=(*said, rating(0.0)), **labels), LISTS)
    assert one is not None
    assert (one.trace, one.cause) == (NAME, cause)
    assert one.evidence


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(CAUSES, 2)))
def test_of_two_causes_the_first_of_the_order_counts(first: Cause, second: Cause) -> None:
    spans, said = (tuple(itertools.chain(EVIDENCE[first][k], EVIDENCE[second][k])) for k in (0, 1))
    one = attribute(view(*spans, said=(*said, rating(0.0))), LISTS)
    assert one is not None
    assert one.cause == first


@given(st.sampled_from(sorted(OUTAGES)), st.sampled_from(["chat", "model", "skill", "tool", "generate"]),
       st.lists(st.sampled_from([item.id for item in LIST.items])))  # fmt: skip
def test_an_outage_never_edits_prose(error: str, kind: str, bad: list[str]) -> None:
    one = attribute(view(broken(kind, error), said=(judgement(*bad), rating(0.0)), skill="tea"), LISTS)
    assert one is not None
    assert one.cause == "infrastructure"


def test_a_judge_that_was_down_does_not_explain_the_answer() -> None:
    one = attribute(view(broken("judge", "timeout"), said=(rating(0.0),), skill="tea"), LISTS)
    assert one is not None
    assert one.cause == "body"


def test_a_failure_without_a_reason_is_no_fault_of_the_text() -> None:
    one = attribute(view(status="failed", skill="tea"), LISTS)
    assert one is not None
    assert one.cause == "infrastructure"


def test_a_bad_score_alone_is_the_bodys_where_a_skill_was_in_use_and_else_the_models() -> None:
    skill = Span("s", "skill", "r", 1, 1, candidates=(Candidate("tea"),), chosen="tea")
    for one, cause in ((view(said=(rating(0.0),)), "model"), (view(said=(rating(0.0),), skill="tea"), "body"),
                       (view(skill, said=(rating(0.0),)), "body")):  # fmt: skip
        found = attribute(one, LISTS)
        assert found is not None
        assert found.cause == cause


def test_feedback_on_a_step_names_its_part() -> None:
    route = Span("r", "model", "router", 1, 1)
    search = Span("t", "retrieve", "search", 1, 1)
    for said, cause in ((rating(0.0, span="r"), "routing"), (rating(0.0, span="t"), "tool"),
                        (rating(0.0, name="safety"), "safety")):  # fmt: skip
        found = attribute(view(route, search, said=(said,)), LISTS)
        assert found is not None
        assert found.cause == cause


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [((), "ok", None), ((rating(0.0),), "cancelled", None), ((rating(1.0),), "ok", False), ((rating(0.4),), "ok", True),
     ((), "failed", True), ((), "refused", None), ((rating(0.0),), "refused", True),
     ((judgement("safety", score=1.0),), "ok", True), ((judgement("body", score=1.0),), "ok", False),
     ((judgement("model", score=None, path="rule"),), "ok", True),
     ((judgement("safety", score=None, path="vote"),), "ok", None),
     ((judgement("safety", score=None, checklist="f" * 64),), "ok", None)],
    ids=["silence", "cancelled", "good", "bad", "failed", "refused", "badly-refused", "unsafe", "fine", "rule", "vote",
         "unknown"],
)  # fmt: skip
def test_what_is_a_failure(said: tuple[Any, ...], status: str, expected: bool | None) -> None:
    one = view(status=status, said=said)
    assert failed(one, LISTS) is expected
    assert (attribute(one, LISTS) is not None) == bool(expected)


def test_every_trace_is_counted_once() -> None:
    views = [view(said=(rating(0.0),)), view(said=(rating(1.0),)), view(), view(status="failed")]
    found, counts = attribute_all(views, LISTS)
    assert counts == {"failed": 2, "stood": 1, "not known": 1}
    assert [one.cause for one in found] == ["model", "infrastructure"]
    assert msgspec.json.encode(vars(found[0]))


def test_a_request_without_a_skill_failed_by_the_model_and_not_by_a_body_of_that_name() -> None:
    nothing = Span("s", "skill", "r", 1, 1, candidates=(Candidate("none"),), chosen="none")
    one = attribute(view(nothing, said=(rating(0.0),), skill="none"), LISTS)
    assert one is not None
    assert (one.cause, one.evidence) == ("model", "a bad score")


def test_a_correction_is_a_failure_whose_name_says_of_what() -> None:
    wish = Feedback("f", NAME, "correction", "answer", 4, text="better", by="ann")
    one = attribute(view(said=(wish,), skill="tea"), LISTS)
    assert one is not None
    assert one.cause == "body"
    for name in ("skill", "routing"):
        one = attribute(view(said=(msgspec.structs.replace(wish, name=name),), skill="tea"), LISTS)
        assert one is not None
        assert one.cause == "routing", name
    of_a_card = msgspec.structs.replace(wish, item="card 7")
    assert failed(view(said=(of_a_card,)), LISTS) is None, (
        "what is wrong with one card is not the whole answer"
    )


def test_a_judgement_by_the_path_of_grounding_speaks_for_it_whatever_its_items_say() -> None:
    plain = Checklist((Item("rests", "Would the answer change without the picture?"),))
    record = JudgementRecord(
        "j", NAME, 3, "judge", "1", plain.digest, "grounding", (VerdictRecord("rests", "no"),), 0.0
    )
    one = attribute(view(said=(record, rating(0.0)), skill="tea"), {plain.digest: plain})
    assert one is not None
    assert one.cause == "grounding"
