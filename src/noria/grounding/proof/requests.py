"""The wire between the product and the proof's models: what a chat request shows and asks, and the reply.

How a request is read and a reply is worded is a script; what is in it is the models' own.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.chat import Answer, Usage
from noria.core.completions.answers import completion

HEIGHT, WIDTH = 72, 96
Reader = Callable[["Request"], dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """What a request shows and asks.

    Attributes:
        frames: [k, height, width, 3]; k may be 0.
        seconds: [k] time of each frame.
        questions: {number: (stem, options)}.
        rate, reason: whether levels and reasons are asked for.
        text: all words of the request.
    """

    frames: NDArray[np.uint8]
    seconds: tuple[float, ...]
    questions: Mapping[int, tuple[str, tuple[str, ...]]]
    rate: bool
    reason: bool
    text: str


_QUESTION = re.compile(r"^Question (\d+) \[[^\]]*\]: ", re.MULTILINE)
_OPTION = re.compile(r"^([A-F])\) (.*)$", re.MULTILINE)


def read_request(body: Mapping[str, Any]) -> Request:
    """What a chat request shows and asks; frames come behind their times."""
    from PIL import Image

    content = body["messages"][-1]["content"]
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    frames: list[NDArray[np.uint8]] = []
    seconds: list[float] = []
    words: list[str] = []
    for part in parts:
        if part["type"] == "text":
            at = re.fullmatch(r"\[t=([\d.]+)s\]", part["text"])
            if at:
                seconds.append(float(at[1]))
            else:
                words.append(part["text"])
        elif part["type"] == "image_url":
            raw = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            frames.append(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB").resize((WIDTH, HEIGHT))))
    text = "\n".join(words)
    pieces = _QUESTION.split(text)
    questions = {}
    for number, block in zip(pieces[1::2], pieces[2::2], strict=True):
        stem = block.split("\n", 1)[0]
        questions[int(number)] = (stem, tuple(option for _, option in _OPTION.findall(block)))
    shown = np.stack(frames) if frames else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    return Request(shown, tuple(seconds), questions, "Task 1." in text, "Task 2." in text, text)


def chat_reply(body: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The protocol's reply of the reader that the request names.

    Raises:
        KeyError: there is no such reader.
    """
    request = read_request(body)
    text = json.dumps(readers[body["model"]](request))
    usage = Usage(len(request.text) // 4, len(text) // 4)
    return completion(body["model"], Answer(text, usage=usage))
