"""Building a benchmark: what is checked by code, what goes back, what the adversary takes away, what people change."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from noria.core.chat import Answer, ChatRequest, Failure, Outcome, Prices
from noria.core.errors import DataError
from noria.core.judging import krippendorff_alpha
from noria.core.progress import Progress
from noria.grounding.asking.config import MediaSettings
from noria.grounding.asking.media import Cinema, MediaParts
from noria.grounding.asking.store import SampleStore
from noria.grounding.building.aligner import (
    check_analyses,
    check_observations,
    check_question,
    deal_letters,
    with_letter,
)
from noria.grounding.building.builder import BuildResult, build, read_clips
from noria.grounding.building.config import BuildSettings
from noria.grounding.building.review import apply_sheet, export_sheet, verdict_table
from noria.grounding.corpus.questions import overlap
from noria.grounding.corpus.records import Box, Corpus, Observation, Record
from noria.grounding.proof.arms import run_adversary
from noria.grounding.synth.world import make_corpus
from noria.grounding.verbs.build import BuildConfig, run as build_folder
from tests.chat_server import Reply, chat_server
from tests.grounding.conftest import Synth
from tests.grounding.test_runner import words

RECORD = make_corpus(1, seed=2)[1].records[0]


# -- the aligner ------------------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    assert overlap((0, 0, 0.2, 0.2), (0, 0, 0.2, 0.2)) == pytest.approx(1)
    assert overlap((0, 0, 0.2, 0.2), (0.1, 0, 0.2, 0.2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 0.1, 0.1), (0.5, 0.5, 0.1, 0.1)) == 0


def test_synthocean_passes_its_own_aligner() -> None:
    _, corpus = make_corpus(30, seed=9)
    for record, levels in zip(corpus, corpus.levels(), strict=True):
        assert check_observations(record.observations, 12.0) == []
        assert check_analyses(record.personality_analyses, levels.tolist(), record.observations) == []
        for question in record.mcq_questions:
            wrong = check_question(question, record.observations, 12.0)
            # Hands are not in the face box, and that question asks for the face's place.
            assert wrong == [] or "hand" in question.question


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dimension": "Smell"}, "dimension"),
        ({"description": " "}, "no description"),
        ({"start_time": 5.0, "end_time": 4.0}, "5.0 to 4.0"),
        ({"end_time": 99.0}, "99.0"),
        ({"bboxes": (Box(0.6, 0.9, 0.1, 0.3, 0.1),)}, "leaves the frame"),
        ({"bboxes": (Box(9.0, 0.1, 0.1, 0.3, 0.1),)}, "outside of its time"),
    ],
)
def test_faulty_observations_are_told(change: dict[str, Any], told: str) -> None:
    one = msgspec.structs.replace(RECORD.observations[0], **change)
    assert any(told in complaint for complaint in check_observations([one], 12.0))
    assert check_observations([], 12.0) == ["there is no observation"]


def test_faulty_questions_are_told() -> None:
    seen = RECORD.observations
    spatial = RECORD.mcq_questions[5]
    assert check_question(spatial, seen, 12.0) == []

    def told(**change: Any) -> str:
        return " / ".join(check_question(msgspec.structs.replace(spatial, **change), seen, 12.0))

    options = spatial.options
    long = msgspec.structs.replace(options[0], text=options[0].text * 2)
    assert "six different" in told(options=options[:5])
    assert "six different" in told(options=(options[0], *options[:5]))
    assert "longer or shorter" in told(options=(long, *options[1:]))
    assert "right letter" in told(correct_answer="Z")
    assert "gives the rating away" in told(question=spatial.question + " Think of their High Openness.")
    assert "outside of the clip" in told(question="At 55.0s, x=0.1, y=0.1, w=0.2, h=0.2: what?")
    assert "leaves the frame" in told(question="At 5.0s, x=0.9, y=0.1, w=0.2, h=0.2: what?")
    assert "needs a time and a box" in told(question="What happens?")
    wrong = next(o.id for o in options if o.id != spatial.correct_answer)
    assert "no observation at that time" in told(correct_answer=wrong)


def test_letters_are_dealt_evenly_and_move_the_right_option() -> None:
    generator = np.random.default_rng(0)
    letters = deal_letters(100, generator)
    assert max(Counter(letters).values()) - min(Counter(letters).values()) <= 1
    question = RECORD.mcq_questions[0]
    for letter in "ABCDEF":
        moved = with_letter(question, letter, generator)
        assert moved.correct is not None
        assert question.correct is not None
        assert moved.correct_answer == letter
        assert moved.correct.text == question.correct.text
        assert sorted(o.text for o in moved.options) == sorted(o.text for o in question.options)


# -- building ---------------------------------------------------------------------------------------------------------


def clip_line(record: Record, **more: Any) -> dict[str, Any]:
    return {
        "video_id": record.video_id,
        "video_path": record.video_id,
        "transcription": record.transcription,
        "original_scores": record.original_scores,
        "consent": True,
    } | more


def test_consent_is_asked_for_by_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    for consent in (False, None, "yes", 1):
        path.write_text(
            json.dumps(clip_line(RECORD)) + "\n" + json.dumps(clip_line(RECORD, consent=consent)) + "\n"
        )
        with pytest.raises(DataError, match=r"clips\.jsonl:2: no consent"):
            read_clips(path)
    path.write_text(json.dumps(clip_line(RECORD, original_scores={"openness": 0.5})))
    with pytest.raises(DataError, match="every trait"):
        read_clips(path)
    path.write_text(json.dumps(clip_line(RECORD, transcription=3)))
    with pytest.raises(DataError, match="not a clip"):
        read_clips(path)
    path.write_text(json.dumps(clip_line(RECORD)))
    assert read_clips(path)[0].observations == ()
    path.write_text(2 * (json.dumps(clip_line(RECORD)) + "\n"))
    with pytest.raises(DataError, match=r"clips\.jsonl:2: .* comes twice"):
        read_clips(path)


class Author:
    """Writes what SynthOCEAN knows, badly the first time where told to."""

    def __init__(self, corpus: Corpus, spoil: str = "") -> None:
        self.corpus, self.spoil = corpus, spoil
        self.asked: list[str] = []

    async def ask(self, request: ChatRequest) -> Outcome:
        brief, text = (m.text for m in request.messages)
        written = self.write(brief, text)
        return Failure("server", "500") if written is None else Answer(written)

    def write(self, brief: str, text: str) -> str | None:
        again = "Your last reply had these faults" in text
        part = "observe" if "atomic things" in brief else "analyse" if "You explain" in brief else "examine"
        self.asked.append(part)
        if self.spoil == f"{part} fails":
            return None
        if self.spoil == f"{part} babbles" or (self.spoil == f"{part} babbles once" and not again):
            return "As you wish!"
        (record,) = self.corpus.records
        if part == "observe":
            rows = [msgspec.to_builtins(o) for o in record.observations]
            return json.dumps({"observations": rows})
        if part == "analyse":
            rows = [
                {"trait": a.trait, "level": a.level, "rationale": a.rationale, "evidence": list(a.evidence)}
                for a in record.personality_analyses
            ]
            if self.spoil == "no evidence once" and not again:
                rows[0]["evidence"] = []
            return "```json\n" + json.dumps({"analyses": rows}) + "\n```"
        question = next(q for q in record.mcq_questions if f"of the kind {q.category}:" in text)
        assert question.correct
        wrong = [o.text for o in question.options if o.id != question.correct_answer]
        if self.spoil == "four distractors once" and not again:
            wrong = wrong[:4]
        return json.dumps(
            {"question": question.question, "correct": question.correct.text, "distractors": wrong}
        )


def built(synth: Synth, folder: Path, spoil: str = "", *, seen: bool = False) -> tuple[BuildResult, Author]:
    record = synth.corpus.records[1]
    clip = msgspec.structs.replace(
        record, personality_analyses=(), mcq_questions=(), observations=record.observations if seen else ()
    )
    author = Author(Corpus((record,)), spoil)
    cinema = Cinema({clip.video_id: clip}, synth.videos, MediaSettings(frames=2))
    settings = BuildSettings(rounds=0)
    with SampleStore(folder) as store:
        return asyncio.run(build([clip], author, cinema, store, settings)), author


def test_no_more_clips_are_held_than_requests_are_under_way(tmp_path: Path) -> None:
    """A thousand clips of 16 frames, or whole files, do not fit in memory."""
    clips = [
        msgspec.structs.replace(RECORD, video_id=f"v{n}", observations=(), mcq_questions=())
        for n in range(12)
    ]
    held = most = 0

    class Projector(Cinema):
        def show(self, video: str, control: Any, question: str = "") -> MediaParts:
            nonlocal held, most
            held += 1
            most = max(most, held)
            return MediaParts((), None)

        def duration(self, video: str) -> float:
            return 12.0

    class Slow:
        async def ask(self, request: ChatRequest) -> Outcome:
            nonlocal held
            await asyncio.sleep(0.01)
            held -= 1
            return Failure("server", "500")

    cinema = Projector({clip.video_id: clip for clip in clips}, None, MediaSettings())
    with SampleStore(tmp_path) as store:
        found = asyncio.run(build(clips, Slow(), cinema, store, BuildSettings(rounds=0), in_flight=2))
    assert len(found.dropped) == 12
    assert most <= 2


def test_a_clip_becomes_a_record(synth: Synth, tmp_path: Path) -> None:
    outcome, author = built(synth, tmp_path)
    (record,) = outcome.corpus.records
    truth = synth.corpus.records[1]
    assert record.observations == truth.observations
    assert {q.question for q in record.mcq_questions} <= {q.question for q in truth.mcq_questions}
    assert len(record.mcq_questions) >= 6
    assert author.asked.count("observe") == 1
    # Taken up again, nothing is asked twice.
    again, quiet = built(synth, tmp_path)
    assert quiet.asked == []
    assert again.corpus == outcome.corpus


def test_verified_observations_leave_the_observer_out(synth: Synth, tmp_path: Path) -> None:
    outcome, author = built(synth, tmp_path, seen=True)
    assert "observe" not in author.asked
    assert len(outcome.corpus) == 1


@pytest.mark.parametrize("spoil", ["observe babbles once", "no evidence once", "four distractors once"])
def test_complaints_go_back_once(synth: Synth, tmp_path: Path, spoil: str) -> None:
    outcome, _ = built(synth, tmp_path, spoil)
    assert len(outcome.corpus) == 1
    assert len(outcome.corpus.records[0].mcq_questions) >= 6


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("observe babbles", "observer"),
        ("analyse babbles", "psychologist"),
        ("examine babbles", "fewer than 3"),
        ("observe fails", "observer"),
    ],
)
def test_a_clip_that_cannot_be_written_is_left_out_with_its_reason(
    synth: Synth, tmp_path: Path, spoil: str, why: str
) -> None:
    outcome, _ = built(synth, tmp_path, spoil)
    assert len(outcome.corpus) == 0
    assert why in outcome.dropped[synth.corpus.ids[1]]


def test_a_budget_ends_a_build_and_the_next_one_goes_on(synth: Synth, tmp_path: Path) -> None:
    record = synth.corpus.records[1]
    author = Author(Corpus((record,)))
    bare = msgspec.structs.replace(record, personality_analyses=(), mcq_questions=(), observations=())
    clips = tmp_path / "clips.jsonl"
    clips.write_text(json.dumps(clip_line(bare)))

    def respond(body: Any, n: int) -> Reply:
        text = author.write(body["messages"][0]["content"], words(body))
        assert text is not None
        return Reply(text, usage={"prompt_tokens": 1000, "completion_tokens": 1000})

    def build_for(budget: float | None) -> BuildResult:
        config = BuildConfig(
            clips=clips,
            videos=synth.videos,
            output=str(tmp_path / "out"),
            rounds=0,
            max_new_tokens=4000,
            frames=2,
            url=double.url,
            model="m",
            prices=Prices(input=0.0, output=1000.0),
            budget=budget,
        )
        return build_folder(config, Progress(quiet=True))[0]

    with chat_server(respond) as double:
        # An answer costs 1; a request may cost its longest answer, which is 4.
        assert build_for(3.9).dropped == {record.video_id: "observer: no reply (budget)"}
        assert double.seen == []
        first = build_for(5.5)
        assert len(first.corpus) == 0
        assert set(first.dropped.values()) == {
            "examiner: no reply (budget)",
            "0 questions stand, fewer than 3",
        }
        assert len(double.seen) == 2
        # What was spent before counts: with 1.5 more than that, nothing more is asked.
        assert len(build_for(5.5).corpus) == 0
        assert len(double.seen) == 2
        whole = build_for(None)
    assert len(whole.corpus) == 1
    assert author.asked.count("observe") == author.asked.count("analyse") == 1


def test_the_adversary_takes_tells_away() -> None:
    found = run_adversary(1, {"train": 1, "epochs": 1, "test": 1, "words": 1, "leak": 1, "written": 32})
    assert found["first"] > 0.45
    assert found["last"] < 0.3
    assert found["random"] > found["last"] + 0.05
    assert found["rewritten"][0] > 60


# -- people -----------------------------------------------------------------------------------------------------------


def test_a_sheet_goes_out_and_comes_back(tmp_path: Path) -> None:
    import csv

    record = msgspec.structs.replace(RECORD, video_id="-dash.001.mp4")
    observation = msgspec.structs.replace(record.observations[0], description="=HYPERLINK(evil)")
    record = msgspec.structs.replace(record, observations=(observation, *record.observations[1:]))
    corpus = Corpus((record,))
    path = tmp_path / "sheet.csv"
    assert export_sheet(corpus, path) == 21 + 7
    text = path.read_text(encoding="utf-8-sig")
    assert "'-dash" in text
    assert "'=HYPERLINK" in text
    assert "\n-dash" not in text
    untouched = apply_sheet(corpus, path)
    assert untouched.corpus == corpus
    assert untouched.counts == {"open": 28}
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    rows[0] |= {"verdict": "delete"}
    rows[1] |= {"verdict": "Corrected", "correction": "a nod"}
    rows[21] |= {"verdict": "corrected", "correction": "b"}
    rows[22] |= {"verdict": "corrected", "correction": "Is this a better stem?"}
    rows[23] |= {"verdict": "delete"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    found = apply_sheet(corpus, path)
    (after,) = found.corpus.records
    assert len(after.observations) == 20
    assert after.observations[0].description == "a nod"
    assert after.mcq_questions[0].correct_answer == "B"
    assert after.mcq_questions[1].question == "Is this a better stem?"
    assert len(after.mcq_questions) == 6
    # What cited a deleted observation does so no more; the rest still cites what it did.
    for old, new in zip(record.personality_analyses, after.personality_analyses, strict=True):
        assert list(new.evidence) == [e - 1 for e in old.evidence if e != 0]


def test_sheets_that_cannot_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    head = "video,kind,number,where,text,options,answer,verdict,correction\n"
    for body, told in (
        ("a,b\n", "columns"),
        (head + f"{RECORD.video_id},observation,0,,,,,maybe,\n", "maybe"),
        (head + f"{RECORD.video_id},observation,0,,,,,corrected,\n", "without a correction"),
        (head + f"{RECORD.video_id},observation,99,,,,,delete,\n", "no observation 99"),
        (head + "elsewhere,question,1,,,,,delete,\n", "elsewhere"),
    ):
        path.write_text(body)
        with pytest.raises(DataError, match=told):
            apply_sheet(Corpus((RECORD,)), path)


def test_two_peoples_sheets_agree_or_not(tmp_path: Path) -> None:
    head = "video,kind,number,where,text,options,answer,verdict,correction\n"

    def sheet(name: str, verdicts: list[str]) -> Path:
        path = tmp_path / name
        path.write_text(head + "".join(f"v,observation,{n},,,,,{v},x\n" for n, v in enumerate(verdicts)))
        return path

    one = sheet("a.csv", ["correct", "delete", "correct", "corrected"])
    alike = verdict_table([one, sheet("b.csv", ["correct", "delete", "correct", "corrected"])])
    assert krippendorff_alpha(alike) == 1.0
    other = krippendorff_alpha(
        verdict_table([one, sheet("c.csv", ["delete", "correct", "corrected", "correct"])])
    )
    assert other is not None
    assert other < 0.1
    with pytest.raises(DataError, match="two people"):
        verdict_table([one])
    assert isinstance(RECORD.observations[0], Observation)
