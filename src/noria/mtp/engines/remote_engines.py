"""An OpenAI-compatible server as the sampler audit takes it, over `/v1/completions` with prompts of token numbers.

The audit needs tokens, not text: vLLM gives them for `return_token_ids` (0.10.2 on), and before that as
`token_id:N` for `return_tokens_as_token_ids`. A server that gives neither cannot be audited, and the error says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from noria.core.chat import FailureKind
from noria.core.chat.faults import Fault, fault_of
from noria.core.errors import ConfigError, ModelError, NoriaError, require
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.engines.engine import AuditRequest, Drawn, Engine

TOGETHER = 32
"""Completions of one request."""
AT_ONCE = 8
"""Requests under way."""


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server and the model to ask there.

    Attributes:
        url: address of the API, such as http://127.0.0.1:8000/v1.
        model: name of the model there; the only one that is served by default.
        api_key: key of the API; by default the one in the environment's OPENAI_API_KEY.
        timeout: seconds a request may take.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 120.0


def server_engine(server: Server, *, length: int) -> Engine:
    """A server of the model whose law is known.

    It is asked for one token at once, so that a wrong address, key, name or form of tokens shows before the audit.

    Args:
        server: the server and the model's name.
        length: tokens of the sequences that are sampled.

    Raises:
        MissingExtra: the `openai` client is absent.
        ConfigError: the address is none.
        ModelError: it does not answer, refuses the key, serves several models or not this one, or gives no tokens.
    """
    openai = require("openai", "openai")
    if not server.url.startswith(("http://", "https://")):
        raise ConfigError(f"{server.url!r}", where="--url", mend="write it as http://127.0.0.1:8000/v1")
    client = openai.OpenAI(
        base_url=server.url,
        api_key=server.api_key or os.environ.get("OPENAI_API_KEY") or "none",
        timeout=server.timeout,
    )
    with _one_line(server):
        name = server.model or _only(client, server)

    def complete(
        prompt: Sequence[int], n: int, params: SamplingParams, seed: int, tokens: int, end: int | None = None
    ) -> list[Drawn]:
        extra: dict[str, Any] = {
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        if end is not None:
            extra["stop_token_ids"] = [end]
        with _one_line(server):
            done = client.completions.create(
                model=name,
                prompt=list(prompt),
                n=n,
                max_tokens=tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                seed=seed,
                logprobs=1,
                extra_body=extra,
            )
            choices = list(done.choices)
            if len(choices) != n:
                raise ModelError(f"{len(choices)} completions came of {n}", where=server.url)
            return [_answer(choice, server) for choice in choices]

    def many(calls: Sequence[tuple[Any, ...]]) -> list[Drawn]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(chain.from_iterable(pool.map(lambda call: complete(*call), calls)))

    def draw(
        prompt: Sequence[int], n: int, params: SamplingParams, seed: int, most: int, end: int | None
    ) -> list[Drawn]:
        sizes = [min(TOGETHER, n - start) for start in range(0, n, TOGETHER)]
        seeds = [int(s) & 0x7FFFFFFF for s in Streams.derived(seed, len(sizes)).seeds.tolist()]
        return many([(prompt, size, params, own, most, end) for size, own in zip(sizes, seeds, strict=True)])

    def batch(requests: Sequence[AuditRequest]) -> list[list[int]]:
        return [tokens for tokens, _ in many([(r.prompt, 1, r.params, r.seed, length) for r in requests])]

    complete([0], 1, SamplingParams(), 0, 1)
    return Engine.of(draw, length, name=f"{name} at {server.url}", batch=batch)


def _only(client: Any, server: Server) -> str:
    names = [str(model.id) for model in client.models.list().data]
    if len(names) != 1:
        raise ModelError(
            f"it serves {', '.join(names) or 'no model'}",
            where=server.url,
            mend="name one with --served-model",
        )
    return names[0]


def _answer(choice: Any, server: Server) -> Drawn:
    """Tokens and their log-probabilities, from whichever field has them."""
    logprobs = choice.logprobs
    values = None if logprobs is None else logprobs.token_logprobs
    ids = getattr(choice, "token_ids", None)
    if ids is None and logprobs is not None and logprobs.tokens is not None:
        words = [str(token) for token in logprobs.tokens]
        if all(word.startswith("token_id:") for word in words):
            ids = [int(word.removeprefix("token_id:")) for word in words]
    if ids is None:
        raise ModelError(
            "it returns text without token numbers",
            where=server.url,
            mend="audit a server that takes return_token_ids, such as vLLM 0.10.2 or newer",
        )
    if values is not None and (len(values) != len(ids) or any(v is None for v in values)):
        values = None
    return [int(token) for token in ids], None if values is None else [float(v) for v in values]


MESSAGES: Mapping[FailureKind, tuple[str, str | None]] = {
    "timeout": ("no answer within {timeout:g} s", "is the server busy or stuck?"),
    "connection": ("no server answers there", "start it, or correct the address"),
    "auth": ("it refuses the key ({status})", "set OPENAI_API_KEY"),
    "not_found": ("it knows no such model or path (404)", "correct --served-model or the address"),
    "garbage": ("its answer is none that an OpenAI-compatible server gives ({words})", None),
}
"""Message of each kind of fault, and what mends it; any other kind shows status and words."""


@contextmanager
def _one_line(server: Server) -> Iterator[None]:
    """Turn what the client raises into one line."""
    try:
        yield
    except NoriaError:
        raise
    except Exception as error:
        fault = fault_of(error)
        if fault is None and isinstance(error, TypeError | AttributeError):
            fault = Fault("garbage", " ".join(str(error).split())[:160])
        if fault is None:
            raise
        what, mend = MESSAGES.get(fault.kind, ("it answered {status}: {words}", None))
        words = what.format(timeout=server.timeout, status=fault.status, words=fault.message[:160])
        raise ModelError(words, where=server.url, mend=mend) from error
