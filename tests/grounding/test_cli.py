"""The verbs as a user types them, on SynthOCEAN and a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.cli import main
from noria.core.chat import user
from noria.core.errors import ConfigError, DataError, RunError
from noria.core.progress import Progress
from noria.grounding.corpus.records import Corpus
from noria.grounding.results.scores import compare_sources, score_source
from noria.grounding.results.sources import open_source
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.verbs.audit import AuditConfig, run as audit
from noria.grounding.verbs.judge import JudgeConfig, run as judge
from noria.grounding.verbs.report import ReportConfig, run as report
from noria.grounding.verbs.run import RunConfig, run as run_verb
from tests.chat_server import ChatServerDouble, chat_server
from tests.grounding.conftest import Synth
from tests.grounding.test_runner import answer, words

pytest.importorskip("openai")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served() -> Iterator[ChatServerDouble]:
    def respond(body: Any, n: int) -> Any:
        system = body["messages"][0]["content"]
        if "careful examiner" in system:
            from tests.chat_server import Reply

            numbers = [line.split(".")[0] for line in words(body).rpartition("Questions:\n")[2].splitlines()]
            return Reply(text=json.dumps({"answers": [{"number": int(x), "answer": "yes"} for x in numbers]}))
        return answer(body, level="High" if body["model"] == "m" else "Low")

    with chat_server(respond) as double:
        yield double


def run(config: RunConfig) -> None:
    run_verb(config, Progress(quiet=True))


def noria(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["grounding", *arguments])
    out = capsys.readouterr()
    assert ended.value.code == code, out.err
    return out.out if code == 0 else out.err


def test_from_a_folder_to_a_board(
    synth: Synth, here: Path, served: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    data, videos = str(synth.annotations), str(synth.videos)
    assert "0 problems, 0 grave" in noria(capsys, "validate", data)
    for model in ("m", "other"):
        common = ("--data", data, "--videos", videos, "--url", served.url, "--frames", "2", "-q")
        out = noria(capsys, "run", *common, "--model", model)
        assert "ok 12" in out
    one, two = "runs/grounding/m-staged-none", "runs/grounding/other-staged-none"
    asked = len(served.seen)
    noria(
        capsys,
        "run",
        "--data",
        data,
        "--videos",
        videos,
        "--url",
        served.url,
        "--model",
        "m",
        "--frames",
        "2",
        "-q",
    )
    assert len(served.seen) == asked
    assert "30 rationales  ok 30" in noria(capsys, "judge", one, "--rubric", "rules", "-q")
    out = noria(capsys, "judge", two, "--url", served.url, "--model", "m2", "--judges", "2", "-q")
    assert "30 rationales  ok 60" in out
    out = noria(capsys, "score", one)
    assert "T3 grounding" in out
    scores = json.loads((here / one / "scores.json").read_text())
    assert scores["samples"]["states"] == {"ok": 12}
    assert {f["name"] for f in scores["figures"]} >= {
        "T1",
        "MAE",
        "T2",
        "T3",
        "PR",
        "CR",
        "IR",
        "HR",
        "PR linked",
    }
    assert "task3_accuracy" in noria(capsys, "score", one, "--compat", "official")
    assert "m  against  other" in noria(capsys, "compare", one, two, "--draws", "200")
    noria(capsys, "report", one, two, "-o", "board.html", "--draws", "200")
    page = (here / "board.html").read_text()
    assert "Rating against prejudice" in page
    assert "synth-0" not in page  # no video, and so no person, is on a page
    noria(capsys, "export", one, "--to", "official", "-o", "p.jsonl")
    assert "T3" in noria(capsys, "score", "p.jsonl", "--data", data)
    noria(capsys, "audit", data, "-o", "ladder", "-q", "--ladder")
    assert "clean: 42 of 42" in noria(capsys, "audit", data, "-o", "audit", "-q", "--no-blind")
    assert (here / "audit" / "clean.json").exists()
    again = noria(capsys, "score", one, "--subset", "audit/clean.json", "--json", "-o", "s.json")
    assert json.loads(again)["counts"]["questions"] == 42


def test_a_benchmark_is_built_reviewed_and_handed_on(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from noria.core.chat import ChatRequest, Message, Text
    from tests.chat_server import Body, Reply
    from tests.grounding.test_builder import Author, clip_line

    record = synth.corpus.records[1]
    author = Author(Corpus((record,)))

    def respond(body: Body, n: int) -> Reply:
        request = ChatRequest((Message("system", (Text(body["messages"][0]["content"]),)), user(words(body))))
        try:
            author.ask(request).send(None)  # it awaits nothing, and the server's loop is running already
        except StopIteration as done:
            return Reply(text=done.value.text)
        raise AssertionError("it awaits something")

    (here / "clips.jsonl").write_text(json.dumps(clip_line(record)) + "\n")
    with chat_server(respond) as double:
        server = ("--url", double.url, "--model", "m")
        command = (
            "build",
            "clips.jsonl",
            "--videos",
            str(synth.videos),
            "-o",
            "mine",
            "--frames",
            "2",
            *server,
            "-q",
        )
        assert "1 videos" in noria(capsys, *command)
        asked = len(double.seen)
        noria(capsys, *command)
        assert len(double.seen) == asked
    assert "0 grave" in noria(capsys, "validate", "mine/annotations")
    assert "rows: sheet.csv" in noria(capsys, "review", "export", "mine/annotations", "-o", "sheet.csv")
    apply = ("review", "apply", "mine/annotations", "sheet.csv", "-o", "reviewed")
    assert "no row has a verdict" in noria(capsys, *apply, code=2)
    assert "two people" in noria(capsys, "review", "agreement", "sheet.csv", code=2)
    sheet = (here / "sheet.csv").read_text(encoding="utf-8-sig").splitlines()
    first = next(n for n, line in enumerate(sheet) if n and line.endswith(",,"))
    sheet[first] = f"{sheet[first][:-2]},correct,"
    (here / "sheet.csv").write_text("\n".join(sheet) + "\n")
    assert "1 correct" in noria(capsys, *apply)
    two = noria(capsys, "review", "agreement", "sheet.csv", "sheet.csv")
    assert (
        two.strip() == "alpha undefined, for all verdicts are the same, over 1 rows with two verdicts or more"
    )
    for kind in ("lmms-eval", "inspect"):
        frames = ("--frames", "2") if kind == "inspect" else ()
        out = noria(
            capsys, "export", "reviewed", "--to", kind, "--videos", str(synth.videos), *frames, "-o", kind
        )
        assert out.startswith(kind)
    # A person who withdraws is gone from the benchmark when it is built again.
    (here / "clips.jsonl").write_text(json.dumps(clip_line(record, video_id="gone.mp4")) + "\n")
    assert "no clip became a record" in noria(capsys, *command, code=1)
    assert list((here / "mine" / "annotations").glob("*.json")) == []


def test_worlds_are_made_and_gone_on_with(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("width=32", "height=24", "fps=2")
    noria(capsys, "synth", "-o", "s", "--samples", "3", *size, "-q")
    clip = next((here / "s" / "videos").iterdir())
    clip.unlink()
    noria(capsys, "synth", "-o", "s", "--samples", "3", *size, "-q")
    assert clip.exists()
    assert "another world" in noria(
        capsys, "synth", "-o", "s", "--samples", "3", "--seed", "9", *size, "-q", code=2
    )
    assert "unknown field 'colour'" in noria(capsys, "synth", "-o", "t", "colour=red", code=2)


ASK = ("run", "--data", "DATA", "--url", "http://a/v1", "--model", "m")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("validate", "nowhere"), "cannot be read"),
        (("run", "--url", "http://127.0.0.1:1/v1", "--model", "m"), "--data is missing"),
        (("run", "--data", "DATA", "--url", "http://127.0.0.1:1/v1", "--model", "m"), "no folder of clips"),
        (("run", "--data", "DATA", "--control", "blind"), "no model to ask"),
        (("run", "--data", "DATA", "--url", "ftp://x", "--model", "m", "--control", "blind"), "not the address"),
        ((*ASK, "--control", "cropped-box", "--videos", "."), "per-item"),
        ((*ASK, "--control", "blind", "--budget", "1"), "prices"),
        ((*ASK, "--control", "blind", "-o", "../x"), "leaves"),
        ((*ASK, "--prices", "1,x"), "not two prices"),
        (("score", "nothing"), "no such run"),
        (("score", "file.jsonl"), "needs its annotations"),
        (("score", "file.jsonl", "--data", "DATA", "--thresholds", "1,2"), "three numbers"),
        (("score", "file.jsonl", "--data", "DATA", "--subset", "file.jsonl"), "not a subset"),
        (("judge", "nothing", "--rubric", "rules"), "no such run"),
        (("compare", "file.jsonl", "--data", "DATA"), "two models"),
        (("report", "file.jsonl", "--data", "DATA"), "--output"),
        (("build", "file.jsonl", "-o", "b", "--url", "http://a/v1", "--model", "m"), "no consent"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    (here / "file.jsonl").write_text(json.dumps({"video_id": synth.corpus.ids[0]}) + "\n")
    filled = [str(synth.annotations) if a == "DATA" else a for a in arguments]
    err = noria(capsys, *filled, code=2)
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_grave_faults_exit_1(synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((synth.annotations / f"{synth.corpus.ids[0]}.json").read_text())
    record["original_scores"]["openness"] = 7
    (here / "d").mkdir()
    (here / "d" / "x.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as ended:
        main(["grounding", "validate", "d"])
    assert ended.value.code == 1
    assert "score_range" in capsys.readouterr().out


def test_a_run_goes_on_with_the_same_settings_only(
    synth: Synth, here: Path, served: ChatServerDouble
) -> None:
    def config(**more: Any) -> RunConfig:
        return RunConfig(
            data=synth.annotations, url=served.url, model="m", control="blind", output="r", **more
        )

    run(config())
    with pytest.raises(RunError, match="protocol"):
        run(config(protocol="unified"))
    with pytest.raises(ConfigError, match="who answers"):
        run(RunConfig(data=synth.annotations, control="blind", output="q"))
    moved = here / "moved"
    moved.mkdir()
    for path in synth.annotations.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    asked = len(served.seen)
    run(RunConfig(data=moved, url=served.url, model="m", control="blind", output="r"))
    assert len(served.seen) == asked
    (moved / f"{synth.corpus.ids[0]}.json").unlink()
    with pytest.raises(DataError, match="not the annotations"):
        open_source(here / "r", data=moved)


def test_a_control_of_some_questions_is_scored_on_those(
    synth: Synth, here: Path, served: ChatServerDouble
) -> None:
    config = RunConfig(
        data=synth.annotations,
        videos=synth.videos,
        url=served.url,
        model="m",
        protocol="per-item",
        control="cropped-box",
        output="r",
    )
    run(config)
    found = score_source(open_source(here / "r"), ScoreSettings(draws=100))
    assert found["counts"]["questions"] == 6
    assert found["counts"]["levels"] == 0
    by = {f["name"]: f["value"] for f in found["figures"]}
    assert by["T1"] is None
    assert by["T3"] == by["T3 Spat"]
    with pytest.raises(ConfigError, match="two models"):
        compare_sources([open_source(here / "r")], ScoreSettings(draws=100))


def test_orders_are_averaged_and_their_consistency_told(
    synth: Synth, here: Path, served: ChatServerDouble
) -> None:
    config = RunConfig(
        data=synth.annotations,
        url=served.url,
        model="m",
        control="blind",
        protocol="permute",
        orders=3,
        output="r",
    )
    run(config)
    found = score_source(open_source(here / "r"), ScoreSettings(draws=100))
    assert found["consistency"]["all"] < 0.4  # a model that likes a letter is not consistent in what it means
    always = 100 * (((5 / 6) ** 2 + 5 / 36) / 6) ** 0.5
    assert found["positional_bias"]["sigma"] == pytest.approx(
        always
    )  # and it is the letter shown that it likes
    results, _ = report(ReportConfig(sources=[here / "r"], draws=100, output="page.html"))
    assert results["comparison"] is None


def test_two_judgements_are_told_apart(synth: Synth, here: Path, served: ChatServerDouble) -> None:
    run(RunConfig(data=synth.annotations, url=served.url, model="m", control="transcript", output="r"))
    judge(JudgeConfig(source=here / "r", rubric="rules"), Progress(quiet=True))
    judge(JudgeConfig(source=here / "r", url=served.url, model="m"), Progress(quiet=True))
    with pytest.raises(ConfigError, match="--judge: judge-atomic-m, judge-rules"):
        open_source(here / "r")
    generous = score_source(open_source(here / "r", judge="atomic-m"), ScoreSettings(draws=100))
    strict = score_source(open_source(here / "r", judge="rules"), ScoreSettings(draws=100))
    values = [next(f["value"] for f in s["figures"] if f["name"] == "T2") for s in (generous, strict)]
    assert values[0] > values[1]
    with pytest.raises(ConfigError, match="no judgement"):
        open_source(here / "r", judge="elsewhere")


def test_reasons_are_scored_by_the_levels_they_were_judged_by(
    synth: Synth, here: Path, served: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    run(RunConfig(data=synth.annotations, url=served.url, model="m", control="transcript", output="r"))
    noria(capsys, "judge", "r", "--rubric", "rules", "--bins", "official")
    told = noria(capsys, "score", "r", "--draws", "100", code=2)
    assert "judge-rules is of bins official, and these are paper" in told
    noria(capsys, "score", "r", "--draws", "100", "--bins", "official")
    noria(capsys, "judge", "r", "--url", served.url, "--model", "n", "--judges", "2", "--temperature", "0.2")
    assert "name one with --judge" in noria(capsys, "report", "r", "--draws", "100", code=2)
    noria(capsys, "report", "r", "--draws", "100", "--judge", "atomic-n")
    assert json.loads((here / "r" / "report.json").read_text())["scores"][0]["judged"] == "judge-atomic-n"
    assert {body["temperature"] for body in served.seen[-5:]} == {0.2}


def test_a_run_that_was_stopped_says_how_much_of_it_is_missing(
    synth: Synth, here: Path, served: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    run(RunConfig(data=synth.annotations, url=served.url, model="m", control="blind", output="r"))
    log = here / "r" / "samples.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-3]))
    assert f"samples: {len(lines) - 3} ok, 3 never asked" in noria(capsys, "score", "r", "--draws", "100")


def test_the_audits_page_and_files(synth: Synth, here: Path) -> None:
    found, _ = audit(AuditConfig(data=synth.annotations, output="a", blind=False), Progress(quiet=True))
    assert found["blind"] is None
    assert (here / "a" / "audit.html").exists()
    assert json.loads((here / "a" / "audit.json").read_text())["videos"] == 6


@pytest.mark.browser
def test_the_board_draws_in_a_browser(
    synth: Synth, here: Path, served: ChatServerDouble, chromium: str
) -> None:
    from playwright.sync_api import sync_playwright

    run(RunConfig(data=synth.annotations, url=served.url, model="m", control="blind", output="r"))
    report(ReportConfig(sources=[here / "r"], draws=100, output="page.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((here / "page.html").as_uri())
        page.wait_for_selector("canvas, svg.marks", timeout=30_000)
        assert "Share right by category" in page.inner_text("body")
        browser.close()
    assert errors == []


def test_the_help_is_quick_and_imports_no_framework() -> None:
    heavy = "{'torch', 'av', 'sklearn', 'openai', 'msgspec'}"
    load = "[group.get_command(None, name) for name in group.list_commands(None)]"
    code = f"import sys; from noria.grounding.verbs import group; {load}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
    assert done.stdout.strip() == "[]"


def test_a_run_without_a_reply_is_no_result(
    synth: Synth, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing is never zero: it exits 1, and cannot be scored."""
    from tests.chat_server import Reply

    with chat_server(lambda body, n: Reply(status=404)) as double:
        ask = ("run", "--data", str(synth.annotations), "--url", double.url, "--model", "m")
        told = noria(capsys, *ask, "--control", "blind", "-o", "r", "-q", code=1)
    assert "failed; the same command asks them again" in told
    err = noria(capsys, "score", "r", code=2)
    assert "nothing was answered: not_found" in err
    assert len(err.strip().splitlines()) == 1
