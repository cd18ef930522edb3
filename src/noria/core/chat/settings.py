"""Where a model is served, what it costs, and how patiently it is asked."""

from __future__ import annotations

import os
import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from noria.core.chat.outcomes import Usage
from noria.core.config import Config
from noria.core.errors import ConfigError

__all__ = ["ChatServer", "Prices", "redacted"]


class Prices(Config):
    """Per million tokens. A price that nobody knows is None, which is not 0: then costs are None, too."""

    input: float | None = Field(None, ge=0)
    output: float | None = Field(None, ge=0)

    @property
    def known(self) -> bool:
        """Whether both are."""
        return self.input is not None and self.output is not None

    def cost(self, usage: Usage) -> float | None:
        """Cost of these tokens; None where a price or a count is missing."""
        if (
            self.input is None
            or self.output is None
            or usage.prompt_tokens is None
            or usage.completion_tokens is None
        ):
            return None
        return (self.input * usage.prompt_tokens + self.output * usage.completion_tokens) / 1e6


class ChatServer(Config):
    """An OpenAI-compatible server and a model on it.

    Attributes:
        url: address of the API, such as http://127.0.0.1:8000/v1.
        model: name of the model on the server.
        key_env: the environment variable that holds the key; none is sent by default, so that no server is given the
            key of another one. Keys themselves are no setting.
        prices: per million tokens.
        timeout: seconds for an attempt; when streaming, for the first piece and then for each next one.
        attempts: how often a request is sent in all, when it fails for a reason that may pass.
        backoff: seconds before the second attempt, on average half of it; doubles with each.
        longest_wait: seconds between two attempts at most. A server that asks for more (Retry-After) is given up.
        in_flight: requests under way at once.
        requests_per_minute: at most; any by default.
        largest_reply: bytes.
        length_field: what the server calls the limit on the answer's length.
    """

    url: str
    model: str
    key_env: str | None = None
    prices: Prices = Prices()
    timeout: float = Field(120.0, gt=0)
    attempts: int = Field(5, ge=1, le=100)
    backoff: float = Field(0.5, ge=0)
    longest_wait: float = Field(60.0, ge=0)
    in_flight: int = Field(16, ge=1, le=4096)
    requests_per_minute: float | None = Field(None, gt=0)
    largest_reply: int = Field(32 * 2**20, ge=1024)
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("an address holds no key; name the variable that holds it in key_env")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            raise ValueError(
                "not the name of an environment variable"
            )  # and not shown: it may be the key itself
        return name

    def key(self) -> str:
        """The key, read when it is needed.

        Raises:
            ConfigError: its variable is not set.
        """
        if self.key_env is None:
            return "none"
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"the variable {self.key_env} is not set", where=self.url, mend=f"export {self.key_env}=…"
            )
        return key


_SECRETS = re.compile(r"(?i)\bbearer\s+\S+|\b(?:sk|pk|rk|hf|gsk|xai|key)[-_][\w*.-]{6,}|\bAIza[\w-]{20,}")


def redacted(text: str, key: str = "") -> str:
    """Without the key, and without what looks like one; servers repeat keys in their complaints."""
    if len(key) > 4:
        text = text.replace(key, "***")
    return _SECRETS.sub("***", text)
