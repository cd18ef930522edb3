"""The policy's own text as a file: what is in it, and that a killed job ends with the same one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import DataError, RunError
from noria.core.models.lm import arithmetic, small_lm
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import SampleConfig
from noria.mtp.data import read_samples
from noria.mtp.decoding.decoder import Decoder
from noria.mtp.decoding.sample_files import Prompt, read_prompts, sample_to_file
from tests.mtp.test_decoder import VOCAB, model_of


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any]:
    return small_lm()


def prompts_of(words: Any, count: int) -> list[Prompt]:
    texts = [f"{p.question}\n" for p in arithmetic(count, seed=3)]
    return [Prompt(words(text)["input_ids"], text) for text in texts]


def test_a_file_holds_what_training_reads(model: tuple[Any, Any], tmp_path: Path) -> None:
    backbone, words = model
    path = tmp_path / "own.jsonl"
    hot = SamplingParams(temperature=3.0)
    prompts = prompts_of(words, 3)
    done = sample_to_file(
        Decoder(backbone, eos=[]),
        words,
        prompts,
        path,
        SampleConfig(max_new_tokens=9, samples=2, batch_size=4),
        params=hot,
    )
    assert (done.path, done.samples, done.resumed) == (path, 6, 0)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["prompt"] for r in records[::2]] == [r["prompt"] for r in records[1::2]]
    assert all(a["completion"] != b["completion"] for a, b in zip(records[::2], records[1::2], strict=True))
    for record in records:
        own = sum(record["loss_mask"])
        assert len(record["logprobs"]) == own == 9
        assert words.decode(record["input_ids"][-own:]) == record["completion"]
        assert words.decode(record["input_ids"][:-own]) == record["prompt"]
    rows = read_samples(path, words, length=64, vocab=2048).rows
    assert int(rows.mask.sum()) == 6 * 9
    assert [p.name for p in tmp_path.iterdir()] == ["own.jsonl"]
    with pytest.raises(RunError, match="exists already"):
        sample_to_file(Decoder(backbone), words, prompts_of(words, 3), path, SampleConfig(max_new_tokens=9))


def test_a_completion_cut_off_by_nan_is_counted_and_not_trained_on(tmp_path: Path) -> None:
    backbone, words = model_of(VOCAB, eos_token_id=None, tie_word_embeddings=False), small_lm()[1]
    with torch.no_grad():
        backbone.get_input_embeddings().weight[7] = math.nan
    prompts = [Prompt([9, 8]), Prompt([9, 7])]
    done = sample_to_file(
        Decoder(backbone, eos=[7]), words, prompts, tmp_path / "own.jsonl", SampleConfig(max_new_tokens=4)
    )
    assert (done.samples, done.invalid) == (2, 1)
    first, second = (json.loads(line) for line in done.path.read_text().splitlines())
    assert (first["finish"], second["finish"]) == ("length", "invalid")
    assert sum(first["loss_mask"]) == 4
    assert sum(second["loss_mask"]) == 0


KILLED = """
import sys
from pathlib import Path
from noria.core.models.lm import small_lm
from noria.mtp.config import SampleConfig
from noria.mtp.decoding.decoder import Decoder
from noria.mtp.decoding.sample_files import sample_to_file
from tests.mtp.test_sample_files import prompts_of
model, words = small_lm()
config = SampleConfig(max_new_tokens=12, batch_size=4)
sample_to_file(Decoder(model), words, prompts_of(words, 120), Path(sys.argv[1]), config)
"""


def test_a_killed_job_goes_on_and_ends_with_the_same_file(model: tuple[Any, Any], tmp_path: Path) -> None:
    backbone, words = model
    path, lines = tmp_path / "own.jsonl", tmp_path / ".own.jsonl.partial" / "samples.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    until = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 8):
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with lines.open("ab") as file:
        file.write(b'{"prompt": "half')
    prompts = prompts_of(words, 120)
    with pytest.raises(RunError, match="other arguments"):
        sample_to_file(Decoder(backbone), words, prompts, path, SampleConfig(max_new_tokens=13, batch_size=4))
    done = sample_to_file(
        Decoder(backbone), words, prompts, path, SampleConfig(max_new_tokens=12, batch_size=4)
    )
    assert 8 <= done.resumed < 120
    whole = tmp_path / "whole.jsonl"
    sample_to_file(Decoder(backbone), words, prompts, whole, SampleConfig(max_new_tokens=12, batch_size=4))
    one, other = ([json.loads(line) for line in p.read_text().splitlines()] for p in (path, whole))
    assert [r["input_ids"] for r in one] == [r["input_ids"] for r in other]


def test_prompts_in_every_form(model: tuple[Any, Any], tmp_path: Path) -> None:
    words = model[1]
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "Q: 1+1\\n"}\n{"input_ids": [5, 6]}\n')
    found = read_prompts(path, words)
    assert found == [Prompt(words("Q: 1+1\n")["input_ids"], "Q: 1+1\n", plain=True), Prompt([5, 6])]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no prompts"),
        ('{"text": 3}', ":1: no prompt; give prompt, messages or input_ids"),
        ('{"prompt": ""}', ":1: the prompt is empty"),
        ('{"input_ids": "ab"}', ":1: input_ids is no list of whole numbers"),
        ('{"input_ids": [1.5]}', ":1: input_ids is no list of whole numbers"),
        ('{"prompt": [{"role": "user", "content": "x"}]}', ":1: the chat template refuses it"),
    ],
)
def test_prompts_that_are_none(model: tuple[Any, Any], tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        read_prompts(tmp_path / "p.jsonl", model[1])
