"""What a verb says when its evidence is missing, failed, unreadable or untested; and that no option is dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.grounding.corpus.files import save_corpus
from noria.grounding.corpus.records import Corpus
from noria.grounding.corpus.types import DIMENSIONS, LEVELS, TRAITS
from noria.grounding.synth.world import make_corpus
from tests.chat_server import Reply, chat_server
from tests.grounding.conftest import SMALL, Synth
from tests.grounding.test_cli import here as here, noria
from tests.grounding.test_runner import answer

pytest.importorskip("openai")


def predictions(corpus: Corpus, *, rename: Any = lambda name: name) -> list[dict[str, Any]]:
    """Right answers to everything, with good grades."""
    return [
        {
            "video_id": rename(record.video_id),
            "task1": {t: LEVELS[n] for t, n in zip(TRAITS, levels.tolist(), strict=True)},
            "task2": dict.fromkeys(TRAITS, "The mouth curves upwards."),
            "task3": [
                {"q_idx": n, "answer": q.correct_answer} for n, q in enumerate(record.mcq_questions, start=1)
            ],
            "task2_judged": {t: dict.fromkeys(DIMENSIONS, 8) for t in TRAITS},
        }
        for record, levels in zip(corpus, corpus.levels(), strict=True)
    ]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# -- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [("score",), ("score", "--compat", "official"), ("compare", "ok"), ("report", "-o", "r")]
)
def test_predictions_of_other_videos_are_no_result(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    """Ids without their suffix, as `Path.stem` leaves them: 0 % would be a lie."""
    write(here / "ok", predictions(synth.corpus))
    other = write(here / "p.jsonl", predictions(synth.corpus, rename=lambda name: name.removesuffix(".mp4")))
    told = noria(capsys, *verb, other, "--data", str(synth.annotations), code=2)
    assert "video" in told
    assert len(told.strip().splitlines()) == 1
    assert not (here / "r").exists()


def test_predictions_of_some_videos_say_of_how_many(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predictions(synth.corpus)[:2]
    path = write(here / "p.jsonl", [*rows, rows[0] | {"video_id": "elsewhere.mp4"}])
    out = noria(capsys, "score", path, "--data", str(synth.annotations), "--draws", "100")
    assert "videos: 4 of 6 have no prediction, which counts as wrong" in out
    assert "left out: 1 predictions of videos that the annotations lack" in out


def test_every_figure_says_what_it_is_of(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predictions(synth.corpus)
    for row in rows[1:]:
        del row["task2_judged"]
    out = noria(
        capsys, "score", write(here / "p.jsonl", rows), "--data", str(synth.annotations), "--level", "0.9"
    )
    lines = {line.split()[0]: line.split()[-1] for line in reversed(out.splitlines()) if line.strip()}
    assert (lines["T1"], lines["T3"], lines["T2"], lines["HR"]) == ("30", "42", "1", "1")
    assert "in the file: 5 of 30 rationales are judged; T2, CR and HR rest on those alone" in out
    assert "[90 %]" in out


def test_an_unscorable_record_is_no_score(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A right answer that is no option was equal to `not answered`; a score of 62 was Very High."""
    path = write(here / "p.jsonl", [{"video_id": synth.corpus.ids[0]}])
    for change, told in (
        ({"correct_answer": "Z"}, "no right answer"),
        ({"correct_answer": ""}, "no right answer"),
        ({"score": 62.0}, "not in [0, 1]"),
    ):
        (here / "d").mkdir(exist_ok=True)
        record = json.loads((synth.annotations / f"{synth.corpus.ids[0]}.json").read_text())
        if "score" in change:
            record["original_scores"]["openness"] = change["score"]
        else:
            record["mcq_questions"][0] |= change
        (here / "d" / "a.json").write_text(json.dumps(record))
        assert told in noria(capsys, "score", path, "--data", "d", code=2)


# -- judges -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A run that was answered; calling it judges that with replies of one's own."""
    replies: list[Any] = [lambda body, n: answer(body)]
    with chat_server(lambda body, n: replies[0](body, n)) as double:
        common = ("--url", double.url, "-q")
        noria(
            capsys,
            "run",
            "--data",
            str(synth.annotations),
            "--control",
            "blind",
            "--model",
            "m",
            "-o",
            "r",
            *common,
        )

        def judge(respond: Any, *more: str, code: int = 0) -> str:
            replies[0] = respond
            return noria(capsys, "judge", "r", "--model", "j", *common, *more, code=code)

        yield judge


@pytest.mark.parametrize(
    "reply", [Reply(status=500), Reply(status=404), Reply(text="I like it."), Reply(text="", refusal="no")]
)
def test_a_judge_that_fails_on_everything_judged_nothing(
    judged: Any, capsys: pytest.CaptureFixture[str], reply: Reply
) -> None:
    told = judged(lambda body, n: reply, "--in-flight", "4", code=2)
    assert "all of the first" in told
    assert len(told.strip().splitlines()) == 1
    out = noria(capsys, "score", "r", "--draws", "100")
    assert "0 of 30 rationales are judged; T2, CR and HR are undefined" in out


def test_a_judge_that_fails_on_most_says_so(judged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    grades = json.dumps(dict.fromkeys(DIMENSIONS, 8))
    respond = lambda body, n: Reply(text=grades if n % 6 == 0 else "no idea")  # noqa: E731
    judged(respond, "--rubric", "graded", "--in-flight", "1")
    out = noria(capsys, "score", "r", "--draws", "100")
    assert "of 30 rationales are judged; T2, CR and HR rest on those alone" in out


def test_the_last_grades_of_a_reply_count(judged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = (json.dumps(dict.fromkeys(DIMENSIONS, grade)) for grade in (2, 9))
    judged(lambda body, n: Reply(text=f"{low} On reflection: {high}"), "--rubric", "graded")
    out = json.loads(noria(capsys, "score", "r", "--draws", "100", "--json"))
    assert next(f["value"] for f in out["figures"] if f["name"] == "T2") == 9


def test_a_quorum_that_nobody_reaches_is_refused(judged: Any) -> None:
    assert "no item can have 3 verdicts" in judged(
        lambda body, n: Reply(), "--quorum", "3", "--judges", "2", code=2
    )


# -- audit ------------------------------------------------------------------------------------------------------------


def test_an_audit_that_tests_nothing_finds_nothing_clean(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_corpus(make_corpus(12, SMALL, seed=1)[1], here / "d")
    out = noria(capsys, "audit", "d", "-o", "a", "-q")
    assert "clean: 0 of 84 questions; 84 could not be tested" in out
    assert set(map(len, json.loads((here / "a" / "clean.json").read_text()).values())) == {0}
    (here / "p.jsonl").write_text(json.dumps({"video_id": "synth-00000.000.mp4"}) + "\n")
    score = ("score", "p.jsonl", "--data", "d", "--subset", "a/clean.json")
    assert "keeps none of the questions" in noria(capsys, *score, code=2)
    assert "no blind classifier was trained" in noria(capsys, "audit", "d", "-o", "b", "-q", "--no-blind")


def test_a_subset_of_other_annotations_is_refused(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(here / "p.jsonl", predictions(synth.corpus))
    for subset, told in (
        ({"elsewhere": [1]}, "lack question 1 of 'elsewhere'"),
        ({synth.corpus.ids[0]: [9]}, "lack question 9"),
        ({synth.corpus.ids[0]: ["1"]}, "not a subset"),
        ([1], "not a subset"),
    ):
        (here / "s.json").write_text(json.dumps(subset))
        assert told in noria(
            capsys, "score", path, "--data", str(synth.annotations), "--subset", "s.json", code=2
        )


# -- options ----------------------------------------------------------------------------------------------------------

ASK = ("run", "--data", "DATA", "--url", "http://127.0.0.1:1/v1", "--model", "m")
BLIND = (*ASK, "--control", "blind")
LOCAL = ("run", "--data", "DATA", "--hf", "model", "--control", "blind")


@pytest.mark.parametrize(
    "arguments",
    [
        (*BLIND, "--device", "cpu"), (*BLIND, "--precision", "bf16"), (*BLIND, "--allow-download"),
        (*LOCAL, "--model", "m"), (*LOCAL, "--timeout", "9"), (*LOCAL, "--json-mode"), (*LOCAL, "--cache", "c"),
        (*LOCAL, "--budget", "1"), (*LOCAL, "--in-flight", "2"), (*LOCAL, "send=video"),
        (*BLIND, "--orders", "3"), (*BLIND, "--conversation", "--protocol", "unified"), (*BLIND, "--no-fallback"),
        (*BLIND, "--frames", "4"), (*BLIND, "--side", "64"), (*BLIND, "--videos", "."), (*BLIND, "--audio"),
        (*ASK, "--videos", ".", "--control", "black", "--send", "video"),
        (*ASK, "--videos", ".", "--control", "reversed", "--audio"),
        (*ASK, "--videos", ".", "--send", "video", "--frames", "4"),
        ("score", "p.jsonl", "--data", "DATA", "--judge", "x"),
        ("score", "p.jsonl", "--data", "DATA", "--reasoning-tags", "x"),
        ("score", "p.jsonl", "--data", "DATA", "--compat", "official", "--bins", "official"),
        ("score", "p.jsonl", "--data", "DATA", "--compat", "official", "--draws", "100"),
        ("score", "p.jsonl", "--data", "DATA", "--compat", "official", "--subset", "s.json"),
        ("score", "p.jsonl", "--data", "DATA", "--compat", "official", "-o", "s.json"),
        ("audit", "DATA", "--ladder", "--no-blind", "-o", "a"),
        ("export", "p.jsonl", "--to", "official", "--data", "DATA", "--videos", "."),
        ("export", "p.jsonl", "--to", "official", "--data", "DATA", "--frames", "3"),
        ("export", "DATA", "--to", "lmms-eval", "--data", "DATA"),
        ("export", "DATA", "--to", "lmms-eval", "--frames", "3"),
        ("export", "DATA", "--to", "inspect", "--frames", "3"),
        ("judge", "r", "--rubric", "rules", "--url", "http://127.0.0.1:1/v1"),
        ("judge", "r", "--rubric", "rules", "--judges", "3"),
        ("judge", "r", "--rubric", "rules", "--temperature", "1"),
        ("report", "p.jsonl", "--data", "DATA", "-o", "x.json"),
        ("build", "p.jsonl", "--url", "http://127.0.0.1:1/v1", "--model", "m", "--categories", "Cubism", "-o", "b"),
    ],
)  # fmt: skip
def test_an_option_that_has_no_effect_is_refused(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    write(here / "p.jsonl", predictions(synth.corpus))
    before = set(here.rglob("*"))
    told = noria(capsys, *(str(synth.annotations) if a == "DATA" else a for a in arguments), code=2)
    assert "--" in told or "audio" in told
    assert len(told.strip().splitlines()) == 1
    assert set(here.rglob("*")) == before


# -- official ---------------------------------------------------------------------------------------------------------


def test_the_released_scorers_lines(synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text may hold what `str.splitlines` parts at; broken lines are skipped, and the last of a video counts."""
    rows = predictions(synth.corpus)
    for row, mark in zip(rows, ("\u2028", "\u0085", "\v", "\f", "\x1c", "\u2029"), strict=True):
        row["task2"]["openness"] = f"She looks{mark}around."
    good = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    bad = json.dumps(rows[0] | {"task1": {}}) + "\n"
    lines = f"{bad}not json\n[1]\n{{}}\n" + '{"video_id": ' * 3000 + f"\n{good}"
    (here / "p.jsonl").write_text(lines, encoding="utf-8")
    score = ("score", "p.jsonl", "--data", str(synth.annotations), "--compat", "official")
    out = json.loads(noria(capsys, *score))
    assert (out["task1_accuracy"], out["task3_accuracy"], out["HR"]) == (100.0, 100.0, 100.0)
    (here / "one.jsonl").write_text(
        good.splitlines()[0].partition("\n")[0] and json.dumps(rows[0]) + "\nbad\n"
    )
    from noria.cli import main

    with pytest.raises(SystemExit):
        main(["grounding", "score", "one.jsonl", *score[2:]])
    err = capsys.readouterr().err
    assert "one.jsonl: 1 lines are skipped, the first of them line 2" in err
    assert "5 of 6 videos have no prediction, and leave every figure" in err


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "\ud800",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    [{}],
    [None],
)
PLACES = (
    ("video_id",), ("task1",), ("task1", "openness"), ("task2",), ("task2", "openness"), ("task3",), ("task3", 0),
    ("task3", 0, "q_idx"), ("task3", 0, "answer"), ("task2_judged",), ("task2_judged", "openness"),
    ("task2_judged", "openness", "grounding_accuracy"), ("parse",), ("parse", "task1"), ("parse", "task3"),
)  # fmt: skip


def put(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a record with another value in one place."""
    record = json.loads(json.dumps(record))
    inner = record
    for key in place[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[place[-1]] = value
    return record


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_type_of_any_field_of_predictions_is_a_traceback(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...]
) -> None:
    first, *rest = predictions(synth.corpus)
    first["parse"] = {"task1": 1, "task3": 1}
    for value in VALUES:
        path = write(here / "p.jsonl", [put(first, place, value), *rest])
        for verb in (
            ("score", path, "--draws", "100", "-o", "s.json"),
            ("score", path, "--compat", "official"),
            ("export", path, "--to", "official", "-o", "out.jsonl"),
        ):
            _one_line(capsys, *verb, "--data", str(synth.annotations))


def _one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    """A verb works, or ends with one line and exit code 1 or 2; any other exception is a traceback."""
    from noria.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["grounding", *arguments])
    err = capsys.readouterr().err
    assert ended.value.code in (0, 1, 2)
    if ended.value.code == 2:
        assert len(err.strip().splitlines()) == 1, err


RECORD_PLACES = (
    ("video_id",), ("video_path",), ("transcription",), ("original_scores",), ("original_scores", "openness"),
    ("observations",), ("observations", 0), ("observations", 0, "bboxes"), ("observations", 0, "start_time"),
    ("observations", 0, "bboxes", 0), ("observations", 0, "bboxes", 0, "x"), ("personality_analyses",),
    ("personality_analyses", 0, "level"), ("personality_analyses", 0, "trait"), ("personality_analyses", 0, "evidence"),
    ("mcq_questions",), ("mcq_questions", 0), ("mcq_questions", 0, "category"), ("mcq_questions", 0, "question"),
    ("mcq_questions", 0, "options"), ("mcq_questions", 0, "options", 0), ("mcq_questions", 0, "options", 0, "id"),
    ("mcq_questions", 0, "correct_answer"), ("metadata",),
)  # fmt: skip


@pytest.mark.parametrize("place", RECORD_PLACES, ids=str)
def test_no_type_of_any_field_of_a_record_is_a_traceback(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...]
) -> None:
    names = synth.corpus.ids
    (here / "d").mkdir()
    for name in names[1:]:
        (here / "d" / f"{name}.json").write_bytes((synth.annotations / f"{name}.json").read_bytes())
    first = json.loads((synth.annotations / f"{names[0]}.json").read_text())
    path = write(here / "p.jsonl", predictions(synth.corpus))
    for value in (None, 10**400, "x", [], [1], {}, {"a": 1}, [{}]):
        (here / "d" / "first.json").write_text(json.dumps(put(first, place, value)))
        for verb in (
            ("validate", "d"),
            ("score", path, "--data", "d", "--draws", "100", "-o", "s.json"),
            ("audit", "d", "-o", "a", "-q", "--no-blind"),
            ("export", "d", "--to", "lmms-eval", "-o", "l"),
        ):
            _one_line(capsys, *verb)


def test_no_type_of_any_field_of_a_run_is_a_traceback(
    judged: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grades = json.dumps(dict.fromkeys(DIMENSIONS, 8))
    judged(lambda body, n: Reply(text=grades), "--rubric", "graded")
    capsys.readouterr()
    for name, line in (
        ("samples.jsonl", True), ("judge-graded-j/samples.jsonl", True), ("config.json", False),
        ("judge-graded-j/judge.json", False),
    ):  # fmt: skip
        file = here / "r" / name
        text = file.read_text()
        record = json.loads(text.splitlines()[0] if line else text)
        for key in record:
            for value in (None, True, -1, 10**400, "x", [], [1], {}, {"a": 1}):
                changed = json.dumps(record | {key: value})
                file.write_text(changed + "\n" + "\n".join(text.splitlines()[1:]) + "\n" if line else changed)
                _one_line(capsys, "score", "r", "--draws", "100", "-o", "s.json")
        file.write_text(text)
    assert "T3" in noria(capsys, "score", "r", "--draws", "100")


COLUMNS = "video,kind,number,where,text,options,answer,verdict,correction"


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "a,b\n", '"' + "x" * 200_000, "video,kind\n", "\ufeff", f"{COLUMNS}\n" + '"' * 999],
    ids=range(7),
)
def test_no_sheet_is_a_traceback(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (here / "s.csv").write_text(text)
    for verb in (("apply", str(synth.annotations), "s.csv", "-o", "out"), ("agreement", "s.csv", "s.csv")):
        _one_line(capsys, "review", *verb)


CLIP_PLACES = (
    ("video_id",), ("video_path",), ("transcription",), ("original_scores",), ("original_scores", "openness"),
    ("consent",), ("observations",), ("observations", 0), ("metadata",), ("mcq_questions",),
)  # fmt: skip


@pytest.mark.parametrize("place", CLIP_PLACES, ids=str)
def test_no_type_of_any_field_of_ones_clips_is_a_traceback(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...]
) -> None:
    from tests.grounding.test_builder import clip_line

    line = clip_line(synth.corpus.records[0])
    with chat_server(lambda body, n: Reply(text="no")) as double:
        for value in (*VALUES, "../x", "a/b", "\0", ".", "x" * 300):
            write(here / "clips.jsonl", [put(line, place, value)])
            _one_line(
                capsys,
                "build",
                "clips.jsonl",
                "--url",
                double.url,
                "--model",
                "m",
                "-o",
                "b",
                "-q",
                "--rounds",
                "0",
            )
