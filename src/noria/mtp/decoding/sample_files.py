"""The policy's own text as a file: JSON lines that `noria.mtp.data` reads, to train and to score a head on.

Every request has random numbers of its own, so a job that was killed resumes behind its last whole line and ends with
the file that an uninterrupted one would have written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError, RunError
from noria.core.files import (
    disk_errors,
    encoded,
    fsync_folder,
    lock,
    read_bytes,
    read_text,
    remove_folder,
    write_atomic,
)
from noria.core.progress import Progress
from noria.core.records import read_records
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.config import SampleConfig
from noria.mtp.data import encode, token_ids
from noria.mtp.decoding.decoder import Completion, Decoder, Request

INVALID = b'"finish": "invalid"}'
"""End of such a line; within a text its quotes would be escaped."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, and as text where it came as text or as a chat.

    Attributes:
        tokens: token numbers.
        text: the text; None where token numbers came.
        plain: whether it came as text that no chat template was put around.
    """

    tokens: Sequence[int]
    text: str | None = None
    plain: bool = False


@dataclass(frozen=True)
class SampleResult:
    """A file of completions.

    Attributes:
        path: the file.
        samples: number of lines in it.
        resumed: number of lines that an earlier, unfinished job had written.
        invalid: number of completions that ended where the logits held NaN or +∞; they are not trained on.
    """

    path: Path
    samples: int
    resumed: int
    invalid: int


def read_prompts(path: Path, tokenizer: Any) -> list[Prompt]:
    """Prompts of a `.jsonl` or `.parquet` file: `prompt` (text, or a chat's messages), `messages`, or `input_ids`.

    Raises:
        DataError: with file and line: malformed, of no known form, empty, or no prompt at all.
        MissingExtra: Parquet without pyarrow.
    """
    prompts = [prompt_of(record, tokenizer, where) for where, record in read_records(path, "prompts")]
    if not prompts:
        raise DataError("no prompts", where=str(path), mend="give one record a line")
    return prompts


def sample_to_file(
    decoder: Decoder,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    path: Path,
    config: SampleConfig,
    *,
    params: SamplingParams | None = None,
    progress: Progress | None = None,
) -> SampleResult:
    """Complete every prompt and write a line for each completion; `path` appears when all are there.

    Until then lines gather in the folder `.NAME.partial`, from which a second call with the same arguments resumes.

    Args:
        decoder: decoder of the policy.
        tokenizer: the policy's tokenizer, for the text beside the tokens.
        prompts: prompts in the order of the lines.
        path: the `.jsonl` file.
        config: how many completions of a prompt, of what length and seed.
        params: temperature and filters.
        progress: shows how many completions there are.

    Raises:
        RunError: the file is there already, the unfinished one is of other arguments, or the disk refuses.
        DataError: a prompt does not fit the model.
    """
    if path.exists():
        raise RunError("the file exists already", where=str(path), mend="choose another --output")
    params = params or SamplingParams()
    copies = [prompt for prompt in prompts for _ in range(config.samples)]
    seeds = Streams.derived(config.seed, len(copies)).seeds.tolist()
    requests = [
        Request(list(prompt.tokens), config.max_new_tokens, params, seed)
        for prompt, seed in zip(copies, seeds, strict=True)
    ]
    partial = path.with_name(f".{path.name}.partial")
    with progress or Progress(quiet=True) as shown, lock(partial), disk_errors(partial):
        lines = partial / "samples.jsonl"
        done = _resume(partial / "job", lines, _identity(decoder, requests))
        task = shown.task("samples", len(requests))
        task.at(done)
        with lines.open("ab") as file:
            for start in range(done, len(requests), config.batch_size):
                chunk = requests[start : start + config.batch_size]
                for number, completion in enumerate(decoder.generate(chunk), start=start):
                    record = _record(copies[number], completion, tokenizer)
                    file.write(encoded(json.dumps(record, ensure_ascii=False)) + b"\n")
                file.flush()
                task.advance(len(chunk))
            os.fsync(file.fileno())
        with lines.open("rb") as file:
            invalid = sum(INVALID in line for line in file)
        lines.replace(path)
        fsync_folder(path.parent)
        remove_folder(partial)
        task.done()
    return SampleResult(path, len(requests), done, invalid)


def _record(prompt: Prompt, completion: Completion, tokenizer: Any) -> dict[str, Any]:
    return {
        "prompt": tokenizer.decode(list(prompt.tokens)) if prompt.text is None else prompt.text,
        "completion": tokenizer.decode(completion.tokens),
        "input_ids": [*prompt.tokens, *completion.tokens],
        "loss_mask": [0] * len(prompt.tokens)
        + [int(completion.finish != "invalid")] * len(completion.tokens),
        "logprobs": [round(value, 6) for value in completion.logprobs],
        "finish": completion.finish,
    }


def prompt_of(record: Mapping[str, Any], tokenizer: Any, where: str = "request") -> Prompt:
    """The prompt of a record: `prompt` (text, or a chat's messages), `messages`, or `input_ids`.

    Raises:
        DataError: it is malformed, of no known form, or empty, or the chat template refuses it.
    """
    ids = record.get("input_ids")
    prompt = record.get("prompt", record.get("messages"))
    if ids is not None:
        result = Prompt(token_ids(ids, where))
    elif isinstance(prompt, str):
        result = Prompt(encode(tokenizer, prompt), prompt, plain=True)
    elif isinstance(prompt, list):
        try:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like
            raise DataError(f"the chat template refuses it ({error})".splitlines()[0], where=where) from error
        result = Prompt(encode(tokenizer, text, special=False), text)
    else:
        raise DataError("no prompt", where=where, mend="give prompt, messages or input_ids")
    if not result.tokens:
        raise DataError("the prompt is empty", where=where, mend="give at least one token")
    return result


def _identity(decoder: Decoder, requests: Sequence[Request]) -> str:
    """Hash of what must be the same to resume: requests, how they are decoded, and some of the model's weights."""
    how = (decoder.gamma, decoder.rule, decoder.eos, decoder.vocab)
    digest = hashlib.sha256(repr((how, requests)).encode())
    weight = decoder.head.weight.detach().reshape(-1)[:4096].float().cpu()
    digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:16]


def _resume(job: Path, lines: Path, identity: str) -> int:
    """Count the samples that an unfinished job left, and cut off half a line behind them.

    Raises:
        RunError: it had other arguments.
    """
    if not job.exists():
        write_atomic(job, identity)
        lines.write_bytes(b"")
        return 0
    if read_text(job) != identity:
        raise RunError(
            "an unfinished job with other arguments is there",
            where=str(job.parent),
            mend="remove it, or choose another --output",
        )
    content = read_bytes(lines) if lines.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    lines.write_bytes(whole)
    return whole.count(b"\n")
