"""Settings of a chat server: its address, prices, time limits and attempts."""

from __future__ import annotations

import os
import re
import urllib.request
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from noria.core.chat.outcomes import Usage
from noria.core.config import ENVIRONMENT, Config
from noria.core.errors import ConfigError


class Prices(Config):
    """Prices per million tokens. An unknown price is None, which is not 0: costs are then None, too."""

    input: float | None = Field(None, ge=0)
    output: float | None = Field(None, ge=0)

    @property
    def known(self) -> bool:
        """Whether both prices are known."""
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
        key_env: name of the environment variable that holds the key; by default no key is sent, so that no server gets
            the key of another one. The key itself is not a setting.
        prices: prices per million tokens.
        timeout: seconds for an attempt; when streaming, for the first piece and then for each next one.
        attempts: most attempts of a request whose faults may pass.
        backoff: longest wait before the second attempt, in seconds; it doubles with each, and is half of it on average.
        longest_wait: longest wait between two attempts, in seconds. Where a server asks for more (Retry-After), the
            request is given up. With 0, a rate limit and a refused connection are given up, too.
        in_flight: requests under way at once.
        requests_per_minute: most requests in a minute; unlimited by default.
        largest_reply: most bytes of a reply.
        length_field: the server's name of the limit on the answer's length.
        refuses: names of fields that the server refuses, such as temperature; they are not sent.
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
    refuses: tuple[str, ...] = ()

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a server; write it as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("an address holds no key; name the variable that holds it in key_env")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(ENVIRONMENT, name):
            # The value is not shown: it may be the key itself.
            raise ValueError("not the name of an environment variable")
        return name

    def key(self) -> str:
        """Read the key from the environment; "none" where no key is sent.

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


def proxy_of(url: str) -> str | None:
    """The environment's HTTP proxy for an address; None for this machine and for hosts in NO_PROXY."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    proxy = proxy if "://" in proxy or not proxy else f"http://{proxy}"
    return proxy if urlsplit(proxy).scheme in ("http", "https") else None


_SECRETS = re.compile(r"(?i)\bbearer\s+\S+|\b(?:sk|pk|rk|hf|gsk|xai|key)[-_][\w*.-]{6,}|\bAIza[\w-]{20,}")


def redacted(text: str, key: str = "") -> str:
    """Remove the key, and what looks like one, from a text: servers repeat keys in their error messages."""
    if len(key) > 4:
        text = text.replace(key, "***")
    return _SECRETS.sub("***", text)
