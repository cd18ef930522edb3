"""The policy's own text: what a head is trained and scored on, as JSON lines that `noria.mtp.data` reads.

Every request has random numbers of its own, so a job that was killed goes on behind its last whole line and ends with
the file an uninterrupted one would have written.
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
from noria.core.files import disk_errors, fsync_folder, lock, remove_folder, write_atomic
from noria.core.progress import Progress
from noria.core.records import read_records
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.data import token_ids
from noria.mtp.decoding.decoder import Completion, Decoder, Request

__all__ = ["Prompt", "SampleResult", "read_prompts", "sample_to_file"]


INVALID = b'"finish": "invalid"}'
"""How such a line ends; within a text its quotes would be escaped."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, and as text where it came as text."""

    tokens: Sequence[int]
    text: str | None = None


@dataclass(frozen=True)
class SampleResult:
    """What a job wrote.

    Attributes:
        path: the file.
        samples: lines in it.
        resumed: how many of them an earlier, unfinished job had written.
        invalid: how many ended where the model's logits held NaN or +∞; nothing of them is trained on.
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
    prompts = [_prompt(record, tokenizer, where) for where, record in read_records(path, "prompts")]
    if not prompts:
        raise DataError("no prompts", where=str(path), mend="give one record a line")
    return prompts


def sample_to_file(
    decoder: Decoder,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    path: Path,
    *,
    max_new_tokens: int,
    params: SamplingParams | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> SampleResult:
    """Complete every prompt and write a line each; `path` appears when all are there.

    Until then lines gather in the folder `.NAME.partial`, which a second call with the same arguments goes on with.

    Args:
        decoder: of the policy.
        tokenizer: its own, for the text beside the tokens.
        prompts: in the order of the lines.
        path: the `.jsonl` file.
        max_new_tokens: of each completion.
        params: temperature and filters.
        samples: completions of each prompt, one behind the other.
        seed: of all of them.
        batch_size: requests decoded together.
        progress: where to say how far it is.

    Raises:
        RunError: the file is there already, the unfinished one is of other arguments, or the disk refuses.
        DataError: a prompt does not fit the model.
    """
    if path.exists():
        raise RunError("the file exists already", where=str(path), mend="choose another --output")
    params = params or SamplingParams()
    seeds = Streams.derived(seed, len(prompts) * samples).seeds.tolist()
    requests = [
        Request(list(prompt.tokens), max_new_tokens, params, seeds[number * samples + again])
        for number, prompt in enumerate(prompts)
        for again in range(samples)
    ]
    partial = path.with_name(f".{path.name}.partial")
    with progress or Progress(quiet=True) as said, lock(partial), disk_errors(partial):
        lines = partial / "samples.jsonl"
        done = _go_on(partial / "job", lines, _identity(decoder, requests))
        task = said.task("samples", len(requests))
        task.at(done)
        with lines.open("ab") as file:
            for start in range(done, len(requests), batch_size):
                chunk = requests[start : start + batch_size]
                for number, completion in enumerate(decoder.generate(chunk), start=start):
                    record = _record(prompts[number // samples], completion, tokenizer)
                    file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
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


def _prompt(record: Mapping[str, Any], tokenizer: Any, where: str) -> Prompt:
    ids = record.get("input_ids")
    prompt = record.get("prompt", record.get("messages"))
    if ids is not None:
        found = Prompt(token_ids(ids, where))
    elif isinstance(prompt, str):
        found = Prompt(list(tokenizer(prompt)["input_ids"]), prompt)
    elif isinstance(prompt, list):
        try:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like
            raise DataError(f"the chat template refuses it ({error})".splitlines()[0], where=where) from error
        found = Prompt(list(tokenizer(text, add_special_tokens=False)["input_ids"]), text)
    else:
        raise DataError("no prompt", where=where, mend="give prompt, messages or input_ids")
    if not found.tokens:
        raise DataError("the prompt is empty", where=where, mend="give at least one token")
    return found


def _identity(decoder: Decoder, requests: Sequence[Request]) -> str:
    """What must be the same to go on: the requests, how they are decoded, and the model, by some of its weights."""
    how = (decoder.gamma, decoder.rule, decoder.eos, decoder.vocab)
    digest = hashlib.sha256(repr((how, requests)).encode())
    weight = decoder.head.weight.detach().reshape(-1)[:4096].float().cpu()
    digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:16]


def _go_on(job: Path, lines: Path, identity: str) -> int:
    """How many samples an unfinished job left; half a line behind them is cut off.

    Raises:
        RunError: it had other arguments.
    """
    if not job.exists():
        write_atomic(job, identity)
        lines.write_bytes(b"")
        return 0
    if job.read_text() != identity:
        raise RunError(
            "an unfinished job with other arguments is there",
            where=str(job.parent),
            mend="remove it, or choose another --output",
        )
    content = lines.read_bytes() if lines.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    lines.write_bytes(whole)
    return whole.count(b"\n")
