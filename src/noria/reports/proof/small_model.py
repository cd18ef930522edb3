"""A report by SmolLM2 (135 million weights), behind a loopback server that writes JSON by schema.

Punctuation and names of fields are the grammar's; the model fills the values. An id is chosen among those that its
pattern finds in the prompt, a number is digits, an array goes on for as long as the model prefers a comma to a bracket.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

LONGEST_STRING = 48
"""Most tokens of a string."""
LONGEST_ARRAY = 3
PROMPT = 1200
"""Most tokens of a prompt: its first fifth, and the rest from its end."""


class GuidedWriter:
    """A causal language model that answers with JSON of a schema, greedily.

    Args:
        model: a causal LM of transformers.
        tokenizer: tokenizer of the model, with a chat template or without.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._ids = tokenizer.get_vocab()

    def answer(self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> str:
        """JSON that follows the schema, whatever the model prefers."""
        text = "\n".join(str(message["content"]) for message in messages)
        if self.tokenizer.chat_template:
            ids = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=False
            )
        else:
            ids = self.tokenizer.encode(text)
        if len(ids) > PROMPT:
            ids = [*ids[: PROMPT // 5], *ids[-(PROMPT - PROMPT // 5) :]]
        return _Filling(self, list(ids), text, dict(schema.get("$defs", {}))).value(schema)


class _Filling:
    """One answer in the making: the cache of the model, and the logits of the next token."""

    def __init__(self, writer: GuidedWriter, ids: list[int], prompt: str, named: Mapping[str, Any]) -> None:
        self.writer, self.prompt, self.named = writer, prompt, named
        self.cache: Any = None
        self.logits = torch.empty(0)
        self._feed(ids)

    @torch.inference_mode()
    def _feed(self, ids: Sequence[int]) -> None:
        out = self.writer.model(torch.tensor([list(ids)]), past_key_values=self.cache, use_cache=True)
        self.cache, self.logits = out.past_key_values, out.logits[0, -1]

    def _say(self, text: str) -> str:
        self._feed(self.writer.tokenizer.encode(text, add_special_tokens=False))
        return text

    def value(self, schema: Mapping[str, Any]) -> str:
        """A value of the schema."""
        if "$ref" in schema:
            return self.value(self.named[schema["$ref"].rpartition("/")[2]])
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema["items"])
            case "string":
                return self._one_of(schema["pattern"]) if "pattern" in schema else self._string()
            case "boolean":
                return self._say("true" if self._prefers("true", "false") else "false")
            case "integer":
                return self._integer()
        raise ValueError(f"a schema of type {schema.get('type')!r}")

    def _object(self, schema: Mapping[str, Any]) -> str:
        parts = [self._say("{")]
        for place, (name, inner) in enumerate(schema.get("properties", {}).items()):
            parts += [self._say(f"{', ' if place else ''}{json.dumps(name)}: "), self.value(inner)]
        return "".join([*parts, self._say("}")])

    def _array(self, items: Mapping[str, Any]) -> str:
        parts = [self._say("["), self.value(items)]
        while len(parts) < 2 * LONGEST_ARRAY and self._prefers(",", "]"):
            parts += [self._say(", "), self.value(items)]
        return "".join([*parts, self._say("]")])

    def _string(self) -> str:
        """Characters up to the quote that the model sets, or up to the longest string."""
        self._say('"')
        text = ""
        for _ in range(LONGEST_STRING):
            token = int(self.logits.argmax())
            piece = self.writer.tokenizer.decode([token])
            if token in self.writer.tokenizer.all_special_ids or '"' in piece or "\n" in piece:
                text += piece.partition('"')[0] if '"' in piece else ""
                break
            text += piece
            self._feed([token])
        self._say('"')
        return json.dumps(text.replace("\\", "").replace("\ufffd", "").strip(), ensure_ascii=False)

    def _integer(self) -> str:
        digits = ""
        tokens = [self.writer.tokenizer.encode(d, add_special_tokens=False)[0] for d in "0123456789"]
        for _ in range(3):
            digits += str(int(self.logits[tokens].argmax()))
            self._feed([tokens[int(digits[-1])]])
        return str(int(digits))

    def _prefers(self, one: str, other: str) -> bool:
        first, second = (
            self.writer.tokenizer.encode(text, add_special_tokens=False)[0] for text in (one, other)
        )
        return bool(self.logits[first] > self.logits[second])

    def _one_of(self, pattern: str) -> str:
        """A text of the prompt that matches the pattern, token by token the one that the model prefers."""
        found = dict.fromkeys(re.findall(rf"(?<![\w#]){pattern.strip('^$')}(?![\w#])", self.prompt)) or {
            "S0": None
        }
        encode = self.writer.tokenizer.encode
        left = {text: encode(json.dumps(text), add_special_tokens=False) for text in found}
        place = 0
        while len(left) > 1:
            nexts = {ids[place] for ids in left.values() if len(ids) > place}
            best = max(nexts, key=lambda token: (float(self.logits[token]), -token))
            left = {text: ids for text, ids in left.items() if len(ids) > place and ids[place] == best}
            self._feed([best])
            place += 1
        ((text, ids),) = left.items()
        if ids[place:]:
            self._feed(ids[place:])
        return json.dumps(text)


REQUEST = (
    "Compare the unemployment rate, the inflation rate (consumer prices) and the public debt of France, "
    "Germany and Japan. Draw a line chart of the unemployment rate."
)


def run_small_model(index: str) -> dict[str, Any]:
    """Counts of a report whose outline is the engine's and whose chart and three sections are written by SmolLM2.

    Raises:
        ConfigError: the model was not fetched (`noria assets smollm2`).
    """
    from noria.core.assets import require_asset
    from noria.core.chat import ChatServer
    from noria.core.models.loading import open_language_model
    from noria.reports.agents.asking import Asker
    from noria.reports.agents.models import ModelAgents
    from noria.reports.agents.pipeline import Job
    from noria.reports.checking.verify import verify_bundle
    from noria.reports.document.blocks import figures, sentences
    from noria.reports.search.index import Index

    opened = open_language_model(str(next(require_asset("smollm2").glob("*.gguf"))))
    with (
        serving(GuidedWriter(opened.model, opened.tokenizer)) as url,
        Index(Path(index)) as corpus,
        tempfile.TemporaryDirectory() as folder,
    ):
        Job(Path(folder), corpus).plan(REQUEST)
        agents = ModelAgents(Asker(ChatServer(url=url, model="smollm2", attempts=1, timeout=900.0)))
        bundle = Job(Path(folder), corpus, agents=agents).write(REQUEST)
        findings = verify_bundle(Path(folder)).findings
    tally = agents.tally
    return {
        "#body sections": len(bundle.report.sections) - 2,
        "#sentences": sum(1 for _ in sentences(bundle.report)),
        "#figures": len(figures(bundle.report)),
        "#findings": len(findings),
        "#requests": tally.requests,
        "#broken replies": tally.repaired + tally.lost,
        "#sentences removed": tally.removed,
    }


@contextlib.contextmanager
def serving(writer: GuidedWriter) -> Iterator[str]:
    """Serve a writer on loopback as OpenAI-compatible chat completions; gives the address of the API."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                text = writer.answer(body["messages"], body["response_format"]["json_schema"]["schema"])
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
            }
            raw = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Write no log: the address and the time are of no use."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
