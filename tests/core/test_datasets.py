"""Data sets: no person and no content lies in two splits, no unjudged answer is learnt from, files are TRL's."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from noria.core.errors import DataError
from noria.core.experiments.splits import LEFT_OUT
from noria.core.traces.blobs import PREFIX
from noria.core.traces.datasets import SPLITS, examples, rows, write_dataset
from noria.core.traces.ids import new_id
from noria.core.traces.records import Feedback, JudgementRecord, Span, SpanError, Trace
from noria.core.traces.store import TraceStore, TraceView, read_views


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


DAY = 1_764_331_200_000_000_000


def view(n: int, text: str, answer: str = "fine", *, user: str | None = None, blobs: tuple[str, ...] = (),
         ratings: tuple[tuple[str, float], ...] = (), correction: str | None = None,
         score: float | None = None) -> TraceView:  # fmt: skip
    name = new_id(DAY + n * 10_000_000)
    span = Span(
        "s", "chat", "m", n, n + 1, input=[{"role": "user", "content": text}], output=answer, blobs=blobs
    )
    feedback = [
        Feedback(f"f{k}", name, "rating", "helpful", k, value, by=by) for k, (by, value) in enumerate(ratings)
    ]
    if correction is not None:
        feedback.append(Feedback("c", name, "correction", "text", 9, text=correction))
    judgements = () if score is None else (JudgementRecord("j", name, 1, "r", "1", "c", "rule", (), score),)
    return TraceView(Trace(name, n, n + 1, "ok", user=user, spans=(span,)), tuple(feedback), judgements)


def talk(n: int, *said: str, user: str | None = None, conversation: str | None = None) -> TraceView:
    """A trace of a conversation of so many requests, the last of which is answered."""
    messages = [{"role": "user", "content": said[0]}]
    for text in said[1:]:
        messages += [{"role": "assistant", "content": "fine"}, {"role": "user", "content": text}]
    span = Span("s", "chat", "m", n, n + 1, input=messages, output="fine")
    trace = Trace(
        new_id(DAY + n * 10_000_000), n, n + 1, "ok", user=user, conversation=conversation, spans=(span,)
    )
    return TraceView(trace)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("abcd"), min_size=1, max_size=3),
            st.sampled_from([None, "u", "v", "w", "x"]),
            st.sampled_from([None, "c", "d"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.text(max_size=2),
)
def test_no_user_conversation_or_request_lies_in_two_splits(drawn, salt) -> None:  # type: ignore[no-untyped-def]
    made = examples(
        [talk(n, *said, user=user, conversation=talked) for n, (said, user, talked) in enumerate(drawn)],
        salt=salt,
    )
    used = [(one.split, *drawn[n]) for n, one in enumerate(made) if one.split != LEFT_OUT]
    for split, said, user, talked in used:
        for other, words, whom, where in used:
            same = (user and user == whom) or (talked and talked == where)
            asked_in_history = words[: len(said)] == said  # the answer to it stands in the other's messages
            assert split == other or not (same or asked_in_history)


def pictured(n: int) -> TraceView:
    """One of 200 pictures, asked about in one of two ways."""
    content = [
        {"type": "text", "text": "what is this" if n % 3 else "who made it"},
        {
            "type": "image_url",
            "image_url": {"url": f"{PREFIX}{hashlib.sha256(str(n % 200).encode()).hexdigest()}"},
        },
    ]
    span = Span("s", "chat", "m", n, n + 1, input=[{"role": "user", "content": content}], output="fine")
    return TraceView(Trace(new_id(DAY + n * 10_000_000), n, n + 1, "ok", user=f"u{n}", spans=(span,)))


def test_a_picture_lies_in_one_split_and_a_trace_without_a_user_in_that_of_its_request() -> None:
    views = [view(n, f"what is {'x' * n}", user=f"u{n}", blobs=("shop's",)) for n in range(200)]
    made = examples(views, salt="s")
    assert len({one.split for one in made} - {LEFT_OUT}) == 1
    assert {one.split for one in made} > {LEFT_OUT}
    asked = Counter(one.split for one in examples([pictured(n) for n in range(2000)], salt="s"))
    assert asked[LEFT_OUT] / 2000 < 0.7, (
        "a request with a picture costs what the picture costs: 1 - .36 - 4 · .01 = .6"
    )
    nobody = examples([view(n, "what is this") for n in range(9)], salt="s")
    assert len({one.group for one in nobody}) == 1
    assert LEFT_OUT not in {one.split for one in nobody}


def test_a_template_is_one_request_and_a_person_keeps_the_split_whatever_comes_and_goes() -> None:
    few = [view(0, "Order 12 of  Tea"), view(1, "order 7 of tea"), view(2, "coffee")]
    made = examples(few, salt="s")
    assert made[0].group == made[1].group
    assert made[2].group != made[0].group
    people = [view(n, "order" + "x" * n, user=f"u{n % 40}") for n in range(200)]
    whole = {one.trace: (one.group, one.split) for one in examples(people, salt="s")}
    later = examples(people[120:], salt="s")  # the oldest are out of the window, or erased
    assert {one.trace: (one.group, one.split) for one in later}.items() <= whole.items()


def test_a_thread_of_many_users_joins_no_company() -> None:
    """Everybody writes in three threads of twelve; joined by users and threads all would be one group."""
    views = [
        talk(n, "word" + "x" * n, user=f"u{n % 60}", conversation=f"t{(n + n // 60) % 12}")
        for n in range(1800)
    ]
    found = Counter(one.split for one in examples(views, salt="s", splits={"train": 0.5, "gates": 0.5}))
    assert min(found["train"], found["gates"]) > 200


@pytest.mark.anyio
async def test_views_of_a_journal_are_what_the_store_says_without_the_erased(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    views = [view(n, f"text {n}", user=f"u{n % 2}", ratings=(("ann", 1.0),)) for n in range(6)]
    try:
        for one in views:
            await store.write(one.trace)
            for said in one.feedback:
                await store.give_feedback(msgspec.structs.replace(said, id=f"{said.id}{one.trace.id}"))
        await store.withdraw(views[2].trace.id, f"f0{views[2].trace.id}")
        await store.erase("u1")
        read = list(read_views(tmp_path))
        assert read == [store.read(one.trace.id) for one in views[::2]]
        assert [len(one.feedback) for one in read] == [1, 0, 1]
        assert [v.trace.id for v in read_views(tmp_path, limit=2)] == [v.trace.id for v in views[2::2]]
        older = read_views(tmp_path, limit=1, wanted=lambda trace: trace.id != views[4].trace.id)
        assert list(older) == [store.read(views[2].trace.id)]
        assert [v.trace.id for v in read_views(tmp_path, after=views[2].trace.began)] == [views[4].trace.id]
    finally:
        store.close()


def test_splits_have_their_shares() -> None:
    texts = ["".join(chr(97 + int(digit)) for digit in str(n)) for n in range(5000)]
    made = examples([view(n, text) for n, text in enumerate(texts)], salt="s")
    for name, share in SPLITS.items():
        assert sum(one.split == name for one in made) / 5000 == pytest.approx(share, abs=0.03)
    with pytest.raises(ValueError, match="sum to 1"):
        examples([], salt="s", splits={"train": 0.9})


def test_one_persons_last_rating_counts_once_and_silence_is_no_score() -> None:
    made = examples(
        [
            view(0, "a", ratings=(("ann", 0.0), ("ann", 1.0), ("bob", 0.5))),
            view(1, "b"),
            view(2, "c", ratings=(("ann", 0.0),), score=1.0),
        ],
        salt="s",
    )
    assert [one.score for one in made] == [0.75, None, 0.5]


def test_rows_of_each_layout() -> None:
    made = examples(
        [
            view(0, "a", "good", score=0.9),
            view(1, "a", "bad", score=0.1),
            view(2, "b", "never judged"),
            view(3, "c", "wrong", correction="right", score=0.0),
        ],
        salt="s",
    )
    sft = list(rows(made, "sft"))
    assert [row["messages"][-1]["content"] for row in sft] == ["good", "right"]
    pairs = list(rows(made, "preferences"))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [
        ("right", "wrong"),
        ("good", "bad"),
    ]
    assert [row["prompt"][0]["content"] for row in rows(made, "prompts")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "output",
    [
        "fine",
        {"role": "assistant", "content": "fine"},
        [{"role": "assistant", "content": "fine"}],
        {"content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}]},
        {"choices": [{"message": {"role": "assistant", "content": "fine"}}]},
    ],
)
def test_answers_are_read_in_every_shape(output: object) -> None:
    one = view(0, "a")
    span = Span("s", "chat", "m", 0, 1, input={"messages": [{"role": "user", "content": "a"}]}, output=output)
    failed = Span("t", "chat", "m", 0, 1, input=[{"role": "user", "content": "a"}], error=SpanError("x", "y"))
    trace = Trace(one.trace.id, 0, 1, "ok", spans=(span, failed))
    (example,) = examples([TraceView(trace)], salt="s")
    assert example.answer == "fine"
    assert examples([TraceView(Trace(one.trace.id, 0, 1, "ok"))], salt="s") == []


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_is_written_with_its_digest(tmp_path: Path, ending: str) -> None:
    made = examples([view(0, "a", "ä\u2028", score=0.9)], salt="s")
    path = tmp_path / f"sft.{ending}"
    digest = write_dataset(path, rows(made, "sft"))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    if ending == "jsonl":
        (row,) = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        (row,) = pq.read_table(path).to_pylist()
    assert row["messages"][-1] == {"role": "assistant", "content": "ä\u2028"}
    with pytest.raises(DataError, match="nothing to write"):
        write_dataset(tmp_path / "none.jsonl", [])
    with pytest.raises(DataError, match="no format"):
        write_dataset(tmp_path / "x.csv", [{"a": 1}])
