"""A route: which model answers, under which prompt and sampling. The content of an artefact of the kind `route`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from noria.core.chat import ChatRequest, Message, system
from noria.core.config import Config

KIND = "route"
"""Kind of the artefacts that hold a route."""
FILE = "route.json"
"""The one file of such an artefact."""


_NOT_SAMPLING = frozenset(
    {"function_call", "functions", "messages", "model", "stream", "tool_choice", "tools"}
)


class Route(Config):
    """A backend, and what is said to it: the content of an artefact of the kind `route`."""

    backend: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of a backend of the operator's.")
    system: str = Field(
        "", max_length=100_000, description="System message before those of the conversation."
    )
    sampling: dict[str, float | int | str] = Field(
        default_factory=dict, description="Sampling settings where the request has none, such as temperature."
    )

    @field_validator("sampling")
    @classmethod
    def _names(cls, sampling: dict[str, float | int | str]) -> dict[str, float | int | str]:
        if more := _NOT_SAMPLING & sampling.keys():
            raise ValueError(f"{min(more)} is no sampling setting")
        return sampling

    @property
    def text(self) -> str:
        """Content of its file; the same route has the same bytes, and so the same artefact."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    @property
    def id(self) -> str:
        """Backend, and 12 hex digits of the content: the name of the route in decisions."""
        return f"{self.backend}@{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    def request(self, messages: Sequence[Message], asked: Mapping[str, Any] | None = None) -> ChatRequest:
        """The request that this route makes of a conversation.

        Args:
            messages: the conversation.
            asked: sampling settings of the caller's, which go before the route's.
        """
        above = (system(self.system),) if self.system else ()
        sampling = {**self.sampling, **(asked or {})}
        length = sampling.pop("max_completion_tokens", None)
        length = sampling.pop("max_tokens", length)
        stop = sampling.pop("stop", ())
        return ChatRequest(
            (*above, *messages),
            temperature=sampling.pop("temperature", None),
            top_p=sampling.pop("top_p", None),
            seed=sampling.pop("seed", None),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            max_tokens=length,
            extra=sampling,
        )
