"""Inputs are read within bounds, and whatever they are instead is one line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from noria.core.errors import CheckpointError, DataError, RunError
from noria.core.files import (
    appearing,
    check_inputs,
    decoding,
    open_input,
    read_bytes,
    read_text,
    write_atomic,
)
from noria.core.records import json_object, json_records, json_value, read_json


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "cannot be read \\(No such file or directory\\)"),
        (lambda path: path.mkdir(), "input: a folder; give a file"),
        (lambda path: os.mkfifo(path), "a pipe or a device; save it as a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
        (lambda path: path.symlink_to(path.name), "cannot be read \\(Too many levels of symbolic links\\)"),
        (_socket, "cannot be read"),
    ],
)
def test_only_a_regular_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], words: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = Path("input")
    make(path)
    for read in (read_bytes, read_text, read_json, lambda path: list(json_records(path))):
        with pytest.raises(DataError, match=words):
            read(path)


def test_a_link_to_a_file_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"\xef\xbb\xbfhi\r\n")
    link.symlink_to(path)
    assert read_text(link) == "hi\r\n"
    with pytest.raises(DataError, match="more than 3 bytes"):
        read_bytes(path, limit=3)
    with pytest.raises(DataError, match="a path with a NUL character"):
        read_bytes(tmp_path / "a\0b")
    for content, words in (
        (b"a\nb\xff", r"file:2: not UTF-8: byte 2 of the line is 0xff"),
        (b"\x1f\x8b\x08", "compressed; unpack it first"),
        ("hi".encode("utf-16"), "but UTF-16; save the file as UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_text(path)


def test_a_pipe_in_a_folder_is_found_before_a_library_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").touch()
    check_inputs(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match=r"config\.json: a pipe"):
        check_inputs(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{\n"a": }', r"here:2: not JSON: .* at character 6"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ("[" * 200_000, "nested more than 100 deep"),
        ('{"a": ' * 101 + "1" + "}" * 101, "nested more than 100 deep"),
        (f"[{'9' * 301}]", "a number of more than 300 digits"),
        (f"[{'9' * 10_000}]", "a number of more than 300 digits"),
        ('["\\ud83d"]', "half of a surrogate pair"),
        ('{"\\ude00": 1}', "half of a surrogate pair"),
    ],
)
def test_json_is_read_within_bounds(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        json_value(text, "here")
    assert "\n" not in str(raised.value)


def test_what_json_may_hold() -> None:
    """Many brackets beside each other are not deep, and digits in text are no number."""
    value = {"a": [[]] * 300, "pi": "3" * 500, "emoji": "\U0001f600", "n": 10**299, "deep": [[[[]]]]}
    assert json_value(json.dumps(value), "here") == value
    assert json_value(json.dumps(value).encode(), "here") == value


def test_another_value_than_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match=r"a\.json: not a snapshot: no JSON object; give another"):
        json_object(tmp_path / "a.json", "a snapshot", mend="give another")


def test_what_a_library_raises_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model"
    words = r"model: not a model that can be read \(two lines\); copy it again"
    with (
        pytest.raises(CheckpointError, match=words),
        decoding(path, "a model", mend="copy it again", error=CheckpointError),
    ):
        raise Exception("two\nlines")
    with pytest.raises(DataError, match="KeyError: 'a'"), decoding(path, "a model"):
        {}["a"]
    # Our own errors keep their words, and get the place.
    with pytest.raises(DataError, match=r"^.*model: ours$"), decoding(path, "a model"):
        raise DataError("ours")


def test_half_a_character_in_a_file_is_its_escape(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", json.dumps({"a": "\ud83d"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "\ud83d"}


def test_open_input_gives_the_place_of_an_error_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(DataError, match="a: cannot be read"), open_input(tmp_path / "a"):
        raise OSError(5, "Input/output error")


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "router").write_text("kept")
    with pytest.raises(RunError, match="there is a file of that name"), appearing(tmp_path / "router"):
        raise AssertionError("never reached")
    assert (tmp_path / "router").read_text() == "kept"
