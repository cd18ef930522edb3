"""The folder of a gateway as a whole: backed up, restored and served, filled from logs, read by SQL, exported."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from noria.cli import noria as command
from noria.core.errors import NoriaError
from noria.core.storage.journal_file import NAME as JOURNAL
from noria.core.traces.store import read_views
from tests.assistant.gateways import echo, gateway


def noria(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(command, [str(word) for word in words], prog_name="noria")
    if isinstance(done.exception, NoriaError):
        done.exit_code = done.exception.exit_code
        done.output_bytes += str(done.exception).encode()
    assert done.exit_code == code, (done.output, done.exception)
    return done


def span(number: int, user: str) -> str:
    return json.dumps(
        {
            "name": "chat",
            "context": {"trace_id": f"{number:#034x}", "span_id": f"{number:#018x}"},
            "parent_id": None,
            "start_time": "2026-11-01T10:00:00.000000Z",
            "end_time": "2026-11-01T10:00:02.000000Z",
            "attributes": {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.input.messages": json.dumps(
                    [{"role": "user", "content": f"ann@example.org {number}"}]
                ),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": f"answer {number}"}]),
                "user.id": user,
            },
        }
    )


def test_a_restored_backup_serves_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path / "data") as one:
        first = one.ask("keep this", user="ann")["id"]
        one.call("/v1/feedback", {"target": first, "value": 1})
        _, bundles = one.call("/v1/bundles")
        kind = next(b["bundle"] for b in bundles["data"] if b["route"]["system"] == "kind")
        one.call("/v1/promote", {"bundle": kind, "based_on": 1})
        noria("assistant", "backup", tmp_path / "backup", "-f", tmp_path / "data")
        later = one.ask("after the backup")["id"]
    noria("assistant", "restore", tmp_path / "backup", "-f", tmp_path / "again")
    said = noria("assistant", "restore", tmp_path / "backup", "-f", tmp_path / "again", code=2).output
    assert "it is there already" in said
    with gateway(tmp_path / "again", echo) as two:
        assert two.ask("x")["choices"][0]["message"]["content"].startswith("kind|"), (
            "what served serves again"
        )
        assert len(two.trace(first)["feedback"]) == 1
        assert two.call(f"/v1/traces/{later}")[0] == 404
        assert two.call("/v1/users/erase", {"user": "ann", "caller": "operator"})[1]["traces"] == 1, (
            "the same secret"
        )


def test_logs_are_taken_in_once_and_their_users_can_be_erased(tmp_path: Path) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "data"
    log.write_text("\n".join(span(n, "ann" if n % 3 else "bob") for n in range(1, 601)) + "\n")
    said = noria("assistant", "import", log, "-f", folder).output
    assert "600 new, 0 known" in said
    assert "600 mail" in said
    assert "0 new, 600 known" in noria("assistant", "import", log, "-f", folder).output
    rows = noria(
        "assistant", "query", "SELECT user, count(*) AS n FROM traces GROUP BY 1", "--json", "-f", folder
    )
    assert sorted(json.loads(line)["n"] for line in rows.stdout.splitlines()) == [200, 400]
    with gateway(folder) as one:
        said = noria("assistant", "import", log, "-f", folder, code=2).output
        assert "in use by another process" in said
        erased = one.call("/v1/users/erase", {"user": "ann", "caller": "imported"})[1]
        assert erased["traces"] == 400
    assert len(list(read_views(folder))) == 200


def test_pictures_of_a_log_have_their_time(tmp_path: Path) -> None:
    shown = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"pixels" * 99).decode()
    line = json.loads(span(1, "ann"))
    content = [{"type": "image_url", "image_url": {"url": shown}}]
    line["attributes"]["gen_ai.input.messages"] = json.dumps([{"role": "user", "content": content}])
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    for days, folder in ((None, tmp_path / "a"), (2, tmp_path / "b")):
        more = [] if days is None else ["--keep-pictures-days", days]
        assert (
            "pictures   1" in noria("assistant", "import", tmp_path / "log.jsonl", "-f", folder, *more).output
        )
        with contextlib.closing(sqlite3.connect(folder / JOURNAL)) as database:
            ((expires,),) = database.execute("SELECT expires FROM blobs").fetchall()
        assert expires == pytest.approx(time.time() + (days or 30) * 86400, abs=300)


def test_what_is_exported_can_be_read_and_imported(tmp_path: Path) -> None:
    with gateway(tmp_path / "data") as one:
        for n in range(90):
            answer = one.ask(f"question {chr(97 + n % 26)}{chr(97 + n // 26)}", user=f"user {n}")["id"]
            one.call("/v1/feedback", {"target": answer, "kind": "correction", "text": f"rather {n}"})
        done = [
            noria(
                "assistant",
                "export",
                "sft",
                "-o",
                tmp_path / f"{split}.jsonl",
                "--split",
                split,
                "-f",
                one.folder,
            )
            for split in ("train", "route gate")
        ]
        noria("assistant", "export", "prompts", "-o", tmp_path / "prompts.parquet", "-f", one.folder)
        noria("assistant", "export", "spans", "-o", tmp_path / "spans.jsonl", "-f", one.folder)
    assert all("SHA-256" in one.output for one in done)
    train, gate = (
        [json.loads(line) for line in (tmp_path / f"{split}.jsonl").open()]
        for split in ("train", "route gate")
    )
    assert len(train) > len(gate) > 0
    assert not {row["trace"] for row in train} & {row["trace"] for row in gate}
    assert all(row["messages"][-1]["content"].startswith("rather ") for row in train)
    said = noria("assistant", "import", tmp_path / "spans.jsonl", "-f", tmp_path / "other").output
    assert "90 new" in said
    assert "question" not in (tmp_path / "spans.jsonl").read_text(), (
        "texts are left out unless they are asked for"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "sft", "-o", "x.jsonl"], "it is no folder of a gateway"),
        (["query", "SELECT 1"], "there is no journal"),
        (["backup", "x"], "there is no such folder"),
    ],
    ids=["export", "query", "backup"],
)
def test_a_folder_that_is_none_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in noria("assistant", *words, "-f", tmp_path / "nothing", code=2).output
    assert not (tmp_path / "nothing").exists()
