"""Samples from the forms that training frameworks write, packed so that documents stay apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from noria.core.errors import DataError
from noria.core.models.lm import small_lm
from noria.mtp.data import Document, pack_documents, read_samples

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = small_lm()[1]
    words.chat_template = CHAT
    return words


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_each_form_trains_on_what_the_policy_wrote(tokenizer: Any, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "add 1 and 2"}, {"role": "assistant", "content": "3, of course"}]
    path = written(
        tmp_path / "s.jsonl",
        {"prompt": "Q: 1+2\n", "completion": "1+2=3 #### 3", "reward": 1.0},
        {"messages": chat},
        {"text": "import os"},
        {"input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]},
        {"input_ids": [8, 9]},
        {"prompt": chat[:1], "completion": chat[1:]},
    )
    read = read_samples(path, tokenizer, length=160, vocab=2048)
    assert (read.documents, read.cut, read.short) == (6, 0, 0)
    rows = read.rows
    shown = []
    for number in range(6):
        here = (rows.segments[0] == number) & rows.mask[0]
        shown.append(rows.tokens[0][here].tolist())
    assert tokenizer.decode(shown[0]) == "1+2=3 #### 3"
    assert tokenizer.decode(shown[1]) == "3, of course\n"
    assert tokenizer.decode(shown[2]) == "import os"
    assert shown[3:] == [[6, 7], [8, 9], shown[1]]
    assert (
        tokenizer.decode(rows.tokens[0][rows.segments[0] == 1])
        == "<user>add 1 and 2\n<assistant>3, of course\n"
    )
    assert not rows.mask[rows.segments < 0].any()


def test_parquet_reads_as_json_lines_do(tokenizer: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [{"prompt": f"Q: {i}", "completion": f" {i} is {i}"} for i in range(9)]
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "s.parquet")
    one = read_samples(tmp_path / "s.parquet", tokenizer, length=32, vocab=2048).rows
    other = read_samples(written(tmp_path / "s.jsonl", *records), tokenizer, length=32, vocab=2048).rows
    for name in ("tokens", "segments", "mask"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=20), st.integers(4, 12))
def test_packing_loses_and_mixes_nothing(sizes: list[int], length: int) -> None:
    documents = [Document(list(range(100 * i, 100 * i + n)), [True] * n) for i, n in enumerate(sizes)]
    packed = pack_documents(documents, length)
    rows, found = packed.rows, []
    for row in range(len(rows)):
        for number in range(int(rows.segments[row].max()) + 1):
            here = rows.segments[row] == number
            found.append(rows.tokens[row][here].tolist())
            assert rows.positions[row][here].tolist() == list(range(len(found[-1])))
    assert found == [list(d.tokens)[:length] for d in documents]
    assert packed.cut == sum(n > length for n in sizes)
    assert packed.documents == len(sizes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n', "s.jsonl:1: a record with 'prompt'"),
        ('{"text": "a"}\nrubbish\n', "s.jsonl:2: not JSON"),
        ("[1]\n", "not a JSON object"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "does not end with the assistant"),
        ('{"input_ids": [1, 2], "loss_mask": [1]}\n', "loss_mask does not fit input_ids; give a list of 2"),
        ('{"input_ids": [1, 2], "loss_mask": ["x", 1]}\n', "loss_mask does not fit"),
        ('{"input_ids": [1], "loss_mask": 5}\n', "loss_mask does not fit"),
        ('{"input_ids": "abc"}\n', "s.jsonl:1: input_ids is no list of whole numbers"),
        ('{"input_ids": [1, true]}\n', "no list of whole numbers"),
        ('{"messages": 5}\n', "does not end with the assistant"),
        ('{"input_ids": [1, 99999]}\n', "outside the vocabulary of 2048"),
        ('{"input_ids": [1, 2], "loss_mask": [0, 0]}\n', "nothing to train on"),
        ("", "nothing to train on"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(
    tokenizer: Any, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        read_samples(tmp_path / "s.jsonl", tokenizer, length=16, vocab=2048)
    assert "s.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_of_another_kind(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(tmp_path / "none.jsonl", tokenizer, length=16, vocab=2048)
    with pytest.raises(DataError, match=r"give one of \.jsonl, \.parquet"):
        read_samples(tmp_path / "s.csv", tokenizer, length=16, vocab=2048)
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="UTF-8"):
        read_samples(tmp_path / "b.jsonl", tokenizer, length=16, vocab=2048)
