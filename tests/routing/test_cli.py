"""`noria routing` as a newcomer runs it: from a pool's file to a served router, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from noria.core.errors import NoriaError
from noria.core.service.hosting import launched
from noria.routing.tables.table import write_table
from tests.chat_server import Body, Reply, chat_server
from tests.routing.tables import small_table

httpx = pytest.importorskip("httpx2")
pytest.importorskip("openai")


def noria(*arguments: str) -> tuple[int, str]:
    """In this process: its exit code and what it printed."""
    from click.testing import CliRunner

    from noria.cli import noria as command

    result = CliRunner().invoke(command, ["routing", *arguments], prog_name="noria")
    if isinstance(result.exception, NoriaError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "small.jsonl"
    write_table(path, small_table(120))
    return path


def answering(body: Body, number: int) -> Reply:
    n = int(body["messages"][0]["content"].split("+")[0])
    return Reply(f"{n + 1}" if body["model"] == "good" or n % 2 else "0")


def test_from_a_pool_to_live_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with chat_server(answering) as double:
        pool = {
            "models": [
                {
                    "name": name,
                    "server": {
                        "url": double.url, "model": name, "attempts": 1, "prices": {"input": price, "output": price}
                    },
                }
                for name, price in (("good", 10.0), ("cheap", 0.1))
            ]
        }  # fmt: skip
        Path("pool.yaml").write_text(json.dumps(pool))  # JSON is YAML
        rows = [
            {"query": f"{n}+1?", "answers": [str(n + 1)], "rule": "number", "dataset": "sums"}
            for n in range(40)
        ]
        Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        code, text = noria("record", "pool.yaml", "questions.jsonl", "-o", "t.jsonl", "-q")
        assert code == 0, text
        assert "40 questions, 2 routes, 80 answers" in text
        assert "0 failed" in text
        pool["models"].append(
            {"name": "dead", "server": {"url": "http://127.0.0.1:9/v1", "model": "d", "attempts": 1}}
        )
        Path("with_dead.yaml").write_text(json.dumps(pool))
        for _ in range(2):
            code, text = noria("record", "with_dead.yaml", "questions.jsonl", "-o", "t.jsonl", "-q")
            assert code == 0, text
            assert "failed dead: 40 of 40 (connection" in text
        code, text = noria("compare", "--table", "t.jsonl", "-q", "--routers", "best_single,oracle,dead")
        assert code == 0, text
        dead = next(line for line in text.split("\n") if line.startswith("dead"))
        assert dead.split()[:6] == ["dead", "0.000", "0.000", "unknown", "1.000", "0.000"]
        assert dead.split()[-1] == "8"  # all were scored
        code, text = noria(
            "train", "--table", "t.jsonl", "-q", "steps=20", "prompts=8", "eval_every=5", "thrift=0"
        )
        assert code == 0, text
        assert "beside  random 0." in text
        assert "best_single 1.000, best_per_task 1.000, oracle 1.000" in text
        run = Path("runs/routing/t-network-recal")
        assert (run / "report.html").is_file()
        code, text = noria("evaluate", str(run), "--table", "t.jsonl", "--trades", "0,1")
        assert code == 0, text
        assert "sums" in text
        code, text = noria("route", str(run), "7+1?", "--dataset", "sums")
        assert code == 2
        assert "a policy router does not look at the data set" in text
        code, text = noria("train", "--table", "t.jsonl", "-q", "steps=2", "--trade", "2", "-o", "cheapest")
        assert code == 0, text
        code, text = noria("route", "cheapest", "7+1?", "--json")
        assert json.loads(text)["route"] == "cheap"
        code, text = noria("route", str(run), "7+1?", "--pool", "pool.yaml", "--json")
        assert code == 0, text
        assert json.loads(text)["answer"] in ("8", "0")
        command = [sys.executable, "-m", "noria.cli", "routing", "serve", str(run), "--pool", "pool.yaml"]
        with launched([*command, "--port", "0"], tmp_path) as service:
            body = {"model": "auto", "messages": [{"role": "user", "content": "7+1?"}]}
            answer = httpx.post(f"{service.url}/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == "8"
            assert httpx.get(f"{service.url}/health").status_code == 200
            assert "noria_routing_answers_total" in httpx.get(f"{service.url}/metrics").text
            assert service.stop() == 0


def test_compare_and_report(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert noria("train", "--table", str(table), "-o", str(run), "-q", "steps=10", "eval_every=5")[0] == 0
    knn = tmp_path / "knn"
    code, text = noria("train", "--table", str(table), "--policy", "knn", "-o", str(knn))
    assert code == 0, text
    code, text = noria("compare", "--table", str(table), "-o", str(tmp_path / "c"), "-q", str(run), str(knn))
    assert code == 0, text
    lines = [line.split() for line in text.split("\n")]
    order = [line[0] for line in lines if line][:9]
    assert order[:7] == ["router", "random", "best_single", "best_per_task", "knn", "mf", "oracle"]
    content = json.loads((tmp_path / "c" / "compare.json").read_text())
    by_name = {row["router"]: row for row in content}
    assert by_name["oracle"]["micro"] >= max(row["micro"] for row in content)
    assert by_name["oracle"]["aiq"] > by_name["random"]["aiq"]
    again = ["compare", "--table", str(table), "-o", str(tmp_path / "c"), "-q", str(run)]
    for option, value in (("--seed", "3"), ("--held-out", "0.5")):  # it would be judged on what trained it
        code, text = noria(*again, option, value)
        assert code == 2
        assert f"give {option} 0" in text
    code, text = noria("evaluate", str(run), "--table", str(table), "-o", str(tmp_path / "e"))
    assert "trained on a part of this table" in text
    (run / "report.html").unlink()
    code, text = noria("report", str(run))
    assert code == 0
    page = (run / "report.html").read_text()
    for words in (
        "Shares of the advantage",
        "Shares of the gradient by data set",
        "Dead groups",
        "Beside the baselines",
    ):
        assert words in page


def test_a_stopped_run_goes_on_by_the_same_command(table: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    settings = ["prompts=8", "eval_every=4", "checkpoint_every=4"]
    base = ["train", "--table", str(table), "-q", *settings]
    assert noria(*base, "-o", str(whole), "steps=12")[0] == 0
    assert noria(*base, "-o", str(part), "steps=4")[0] == 0
    assert noria(*base, "-o", str(part), "steps=12")[0] == 0
    read = lambda folder, name: (folder / name).read_bytes()  # noqa: E731
    assert read(whole, "metrics.jsonl") == read(part, "metrics.jsonl")
    assert read(whole / "router", "router.safetensors") == read(part / "router", "router.safetensors")
    code, text = noria(*base, "-o", str(part), "steps=12", "calibration=grpo")
    assert code == 2
    assert "calibration" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "--table"),
        (["train", "--table", "absent.jsonl"], "absent.jsonl"),
        (["train", "--table", "T", "--policy", "magic"], "no router 'magic'"),
        (["train", "--table", "T", "--policy", "knn", "steps=3"], "--table and --trade only"),
        (["train", "--table", "T", "calibration=magic"], "choose from"),
        (["train", "--table", "T", "--policy", "writer"], "no model"),
        (["train", "--table", "T", "--model", "small"], "--policy writer"),
        (["train", "--table", "T", "form=2"], "no setting 'form'"),
        (["compare", "--table", "T", "--test", "T", "--held-out", "0.5"], "--held-out"),
        (["route", "nowhere", "hi", "--trade", "nan"], "finite"),
        (["train", "--table", "T", "--policy", "knn", "--trade", "-1"], "0"),
        (["evaluate", "nowhere", "--table", "T"], "no router here"),
        (["evaluate", "nowhere"], "--table"),
        (["compare", "--table", "T", "--routers", "knn,magic"], "magic"),
        (["route", "nowhere", "hi"], "no router here"),
        (["serve", "nowhere"], "--pool"),
        (["report", "nowhere"], "no run here"),
        (["record", "absent.yaml", "q.jsonl", "-o", "t.jsonl"], "absent.yaml"),
        (["record", "absent.yaml", "q.jsonl", "-o", "../t.jsonl"], "absent.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], told: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = noria(*[str(table) if a == "T" else a for a in arguments])
    assert code == 2
    assert told in text
    assert "\n" not in text
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_help_is_quick_and_names_the_verbs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "noria.cli", "routing", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for verb in ("record", "train", "evaluate", "route", "serve", "compare", "report"):
        assert verb in done.stdout
    code = "import sys, noria.routing.verbs; print([m for m in ('torch', 'sklearn', 'openai') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
