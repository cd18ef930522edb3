"""`noria assistant init`: a configuration from a few answers that serves at once."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from noria.assistant.verbs.init import command
from noria.core.errors import ConfigError, DataError
from noria.core.service.hosting import launched
from tests.assistant.gateways import TOKEN, Gateway
from tests.chat_server import Reply, chat_server

MODEL = ["--url", "http://127.0.0.1:9/v1", "--model", "m"]


def init(*words: str) -> str:
    result = CliRunner().invoke(command, list(words), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_what_is_written_serves(tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text("id,title\n1,Mug\n")
    file = tmp_path / "noria.yaml"
    with chat_server(lambda body, number: Reply("hello " + str(len(body.get("tools", []))))) as backend:
        said = init(str(file), "--url", backend.url, "--model", "m", "--judge", "j", "--feed", str(feed))
        assert f"noria serve --config {file}" in said
        words = [
            "serve",
            "--config",
            str(file),
            "--folder",
            str(tmp_path / "data"),
            "--port",
            "0",
            "--no-companion",
        ]
        with launched(
            [sys.executable, "-m", "noria.cli", *words], tmp_path, env={"NORIA_TOKEN": TOKEN}
        ) as process:
            answer = Gateway(process.url, tmp_path / "data", backend).ask("hi")
    assert answer["choices"][0]["message"]["content"] == "hello 1", "the search of products is on offer"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "a gateway needs a model"),
        (["--url", "http://127.0.0.1:9/v1"], "a gateway needs a model"),
        ([*MODEL, "--skills", "nowhere"], "no such folder of skills"),
        ([*MODEL, "--feed", "nowhere.csv"], "cannot be read"),
        ([*MODEL, "--mcp", "file:///etc/passwd"], "mcp|url"),
    ],
)
def test_nothing_is_written_where_an_answer_is_missing_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=error):
        init("noria.yaml", "--no-ask", *words)
    assert not any(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "noria.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="there already"):
        init(str(tmp_path / "noria.yaml"), *MODEL)
    assert (tmp_path / "noria.yaml").read_text() == "mine"


def test_somebody_at_a_terminal_is_asked(tmp_path: Path) -> None:
    with chat_server(lambda body, number: Reply()) as backend:
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "noria.cli", "assistant", "init", "noria.yaml"],
            cwd=tmp_path, stdin=child, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.close(child)
        os.write(parent, f"{backend.url}\n\n\n\n\n\n\n".encode())
        output, _ = process.communicate(timeout=60)
        os.close(parent)
    assert process.returncode == 0, output
    assert "It offers: m" in output
    text = (tmp_path / "noria.yaml").read_text()
    assert "model: m" in text
    assert "judging" not in text
