"""The verbs of `noria credit`, run as a user runs them, on the models that ship; pages in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("here")
TRAIN = ["train", "--model", "small-start", "--data", "chains"]
SHORT = ["prompts=2", "group=4", "max_new_tokens=90", "lr=1e-3", "answer=hash", "questions=8"]


@pytest.fixture(name="browser", scope="module")
def _browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def visited(browser: Any, path: Path) -> tuple[Any, list[str]]:
    """A page, and what its console complained of."""
    page = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True).new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=20_000)
    return page, complaints


def test_a_trace_is_a_page_that_opens_in_a_browser(noria: Any, here: Path, browser: Any) -> None:
    nasty = "<script>window.hacked = 1</script>"
    response = f"A x+4 x3 = x7; so {nasty} B y-2 y7 = y5; #### x7"
    records = [
        {"prompt": ": x3 y7; A x+4 B y-2; x?\n", "answer": "x7", "response": response},
        {"prompt": ": x3 y7; A x+4 B y-2; x?\n", "answer": "x7", "response": "so so so so"},
    ]
    (here / "q.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = noria(
        "trace", "small", "--data", "q.jsonl", "--answer", "hash", "-q", "credit_settings.emission=0.2"
    )
    assert done.code == 0
    assert "no flow: no answer" in done.out
    found = json.loads((here / "runs" / "credit" / "trace-small" / "trace.json").read_text())
    first, second = found["traces"]
    assert "".join(token["text"] for token in first["tokens"]) == records[0]["prompt"] + response
    assert first["arrived"] == pytest.approx(1, abs=1e-4)
    assert second["fallback"] == "no_answer"
    assert found["settings"]["emission"] == 0.2
    spine = first["backbone"]["spine"]
    assert first["tokens"][spine[0]]["part"] in ("question", "reasoning")
    assert spine == sorted(spine)
    assert first["backbone"]["carried"] >= 0.8
    page, complaints = visited(browser, here / "runs" / "credit" / "trace-small" / "trace.html")
    assert complaints == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("p.shaded").first.evaluate("e => e.textContent") == records[0]["prompt"] + response
    assert page.locator(".drawing svg.marks").count() == 1  # the second has no flow to draw
    assert page.locator(".drawing svg.marks path").count() > 20
    assert page.get_by_text("Hubs", exact=True).count() == 1
    assert page.locator("p.shaded span.mark").count() > 5


def test_a_mask_test_is_a_table_and_a_page(noria: Any, here: Path) -> None:
    asked = [
        "mask-test",
        "small",
        "--data",
        "chains",
        "-n",
        "12",
        "--names",
        "flow,entropy",
        "--answer",
        "hash",
        "-q",
    ]
    done = noria(*asked)
    assert done.code == 0
    assert done.out.splitlines()[1].startswith("random")
    results = json.loads(noria(*asked, "--json", "credit_settings.layers=all").out)
    assert [(row["name"], row["end"]) for row in results["rows"]] == [
        ("random", "top"),
        ("flow", "top"),
        ("flow", "bottom"),
        ("entropy", "top"),
        ("entropy", "bottom"),
    ]
    assert results["questions"] == 12
    assert set(results["against_random"]) == {"flow", "entropy"}
    page = (here / "runs" / "credit" / "mask-test-small" / "mask-test.html").read_text()
    assert "What masking does" in page
    assert "are hidden from attention" in " ".join(page.split())


def test_trainings_go_on_and_are_compared(noria: Any, here: Path) -> None:
    for credit in ("flow", "none"):
        done = noria(*TRAIN, "--credit", credit, "-q", "steps=2", *SHORT)
        assert done.code == 0
        assert f"run     runs/credit/small-start-{credit}-0   2 steps" in done.out
    folder = here / "runs" / "credit" / "small-start-flow-0"
    assert "While training" in (folder / "report.html").read_text()
    assert (folder / "model" / "model.safetensors").exists()
    done = noria(*TRAIN, "-q", "steps=3", *SHORT)
    assert "3 steps" in done.out
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()] == [1, 2, 3]
    other = noria(*TRAIN, "-q", "steps=3", *SHORT, "lr=2e-3", "name=small-start-flow-0")
    assert other.code == 2
    assert "lr" in other.err
    done = noria("compare", str(folder), str(folder.with_name("small-start-none-0")))
    assert done.code == 0
    assert "gain on none" in done.out
    results = json.loads((here / "runs" / "credit" / "compare" / "compare.json").read_text())
    assert [row["credit"] for row in results["credits"]] == ["flow", "none"]
    assert results["pairs"][0]["seeds"] == 1
    assert results["steps"] == 2
    assert results["differences"] == []
    # The trained policy is a model like any other.
    done = noria("trace", str(folder / "model"), "--data", "chains", "-n", "1", "-q", "-o", "t")
    assert done.code == 0


@pytest.mark.slow
def test_a_killed_training_ends_as_if_it_had_not_been(here: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "noria.cli",
        "credit",
        *TRAIN,
        "-q",
        "steps=6",
        "checkpoint_every=2",
        *SHORT,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "-o", folder], env=environment, cwd=here, stderr=subprocess.PIPE)

    assert start("whole").wait(150) == 0
    killed = start("parts")
    log = here / "parts" / "metrics.jsonl"
    while killed.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert start("parts").wait(150) == 0
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if "seconds" not in k}
            for line in (here / f / "metrics.jsonl").open()
        ]
        for f in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    files = [(here / f / "model" / "model.safetensors").read_bytes() for f in ("whole", "parts")]
    assert files[0] == files[1]


def test_settings_are_checked_without_pytorch() -> None:
    code = (
        "import sys; from noria.credit.verbs import group;"
        "[group.get_command(None, name) for name in group.verbs];"
        "from noria.credit.verbs.trace import TraceConfig; TraceConfig(model='small', data='chains').credit_config;"
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trace", "small", "--data", "none.jsonl"], "none.jsonl"),
        (["trace", "small", "--data", "gym:nothing"], "reasoning-gym nothing"),
        (["trace", "nowhere", "--data", "chains"], "nowhere: no such model"),
        (["trace", "small", "--data", "chains", "--credit", "flo"], "no credit 'flo'"),
        (["trace", "small", "--data", "chains", "--credit", "entropy"], "no flow to trace"),
        (["trace", "small", "--data", "chains", "--answer", "boxd"], "no answer finder"),
        (["trace", "small", "--data", "chains", "credit_settings.layers=99"], "there is no layer 99"),
        (["trace", "small", "--data", "chains", "--share", "2"], "--share"),
        (["trace", "small", "--data", "chains", "-o", "../out"], "--output"),
        (["mask-test", "small", "--data", "chains", "--names", "luck"], "no credit 'luck'"),
        (["mask-test", "small", "--data", "chains", "--ends", "middle"], "--ends"),
        (["mask-test", "small", "--data", "chains", "--own"], "no response"),
        (["mask-test", "small", "--data", "chains", "--fraction", "0", "-n", "1"], "fraction"),
        (["train", "--model", "small"], "data: no data given"),
        (["train", "--data", "chains"], "model: no model given"),
        ([*TRAIN, "--credit", "luck"], "no credit 'luck'"),
        ([*TRAIN, "credit_settings.gama=2"], "did you mean 'gamma'"),
        (
            [*TRAIN, "--credit", "random", "credit_settings.emission=0.2"],
            "the credit random does not read it",
        ),
        (
            [
                "mask-test",
                "small",
                "--data",
                "chains",
                "--names",
                "fai,entropy",
                "credit_settings.emission=0.2",
            ],
            "the credit fai or entropy does not read it",
        ),
        ([*TRAIN, "lr=-1"], "lr"),
        ([*TRAIN, "answer=boxd"], "no answer finder"),
        (["compare", "empty"], "two runs or more"),
        (["compare", "empty", "empty"], "no run here"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(
    noria: Any, here: Path, arguments: list[str], told: str
) -> None:
    (here / "empty").mkdir()
    done = noria(*arguments)
    lines = [line for line in done.err.splitlines() if line.startswith("noria: error: ")]
    assert done.code == 2
    assert done.out == ""
    assert len(lines) == 1
    assert told in lines[0]
    assert [path.name for path in here.iterdir()] == ["empty"]


def test_answers_that_are_not_found_are_told(noria: Any, here: Path) -> None:
    done = noria("mask-test", "small", "--data", "chains", "-n", "4", "--answer", "boxed", "-q")
    assert done.code == 2
    assert "none of 4 responses can be tested: no answer in 4" in done.err
    assert len(done.err.splitlines()) == 1
    assert not (here / "runs" / "credit" / "mask-test-small").exists()
    done = noria(*TRAIN, "steps=2", *SHORT, "answer=boxed")
    assert done.code == 0
    assert done.err.count("warning: step 1: an answer was found in 0% of the responses (answer=boxed)") == 1
    assert "warning: step 2" not in done.err


def test_a_page_without_a_hub_is_a_page(noria: Any, here: Path) -> None:
    (here / "x.jsonl").write_text('{"prompt": "x", "answer": "1"}\n')
    assert noria("trace", "small", "--data", "x.jsonl", "-q").code == 0
    assert "There are no rows." in (here / "runs" / "credit" / "trace-small" / "trace.html").read_text()


def test_results_go_neither_over_a_file_nor_into_a_run(noria: Any, here: Path) -> None:
    (here / "file").write_text("mine")
    assert noria(*TRAIN, "-q", "steps=1", *SHORT, "-o", "run").code == 0
    before = sorted(path.name for path in (here / "run").iterdir())
    for verb in (
        ("trace", "small", "--data", "chains"),
        ("mask-test", "small", "--data", "chains"),
        ("compare", "run", "run"),
    ):
        for target, why in (("file", "there is a file of that name"), ("run", "it is a run's folder")):
            done = noria(*verb, "-o", target)
            assert (done.code, len(done.err.splitlines())) == (2, 1)
            assert why in done.err
    assert (here / "file").read_text() == "mine"
    assert sorted(path.name for path in (here / "run").iterdir()) == before


def test_what_cannot_be_read_is_told_before_anything_is_written(noria: Any, here: Path) -> None:
    done = noria(*TRAIN, "-q", "steps=1", *SHORT, "credit_settings.layers=99")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert not (here / "runs").exists()
    for more in (("--fraction", "5"), ("credit_settings.layers=99",), ("--names", "ktae")):
        done = noria("mask-test", "small", "--data", "chains", *more)
        assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_only_what_can_be_compared_is(noria: Any, here: Path) -> None:
    for name, steps, credit in (("a", 1, "none"), ("b", 2, "flow"), ("c", 2, "flow")):
        assert noria(*TRAIN, "-q", f"steps={steps}", *SHORT, "--credit", credit, "-o", name).code == 0
    done = noria("compare", "a", "b")
    assert "over the first 1 steps, which all runs have (others have 2)" in done.out
    done = noria("compare", "a", "b", "c")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "2 runs have the credit flow and the seed 0" in done.err
    done = noria("compare", "a", "nowhere")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no such folder" in done.err


@pytest.mark.parametrize("field", ["reward", "rollout_seconds", "step"])
@pytest.mark.parametrize("value", ["x", [1], {"a": 1}, True, 10**400, None])
def test_a_log_of_any_values_is_compared_or_refused(noria: Any, here: Path, field: str, value: Any) -> None:
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "config.json").write_text(json.dumps({"credit": name, "seed": 0}))
        rows = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.5, field: value}]
        (here / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = noria("compare", "a", "b")
    assert done.code in (0, 2)
    assert done.err.count("noria: error: ") == (done.code == 2)


@pytest.mark.parametrize(
    "config",
    [
        [],
        3,
        {"credit": "flow"},
        {"credit": 3, "seed": "x"},
        {"credit": "a", "credit_settings": [1], "seed": 0},
    ],
)
def test_settings_of_any_kind_are_compared_or_refused(noria: Any, here: Path, config: Any) -> None:
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "config.json").write_text(json.dumps(config))
        (here / name / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    done = noria("compare", "a", "b")
    assert (done.code, done.err.count("noria: error: ")) == (2, 1)
