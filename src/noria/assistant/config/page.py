"""Settings of the web page for people."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from noria.core.config import Config

_ORIGIN = r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$"


class CompareConfig(Config):
    """Two answers side by side, of which the user chooses one."""

    route: str = Field(description="Route that answers beside what serves.")
    share: float = Field(0.05, ge=0, le=1, description="Share of the messages that get two answers.")


class PageConfig(Config):
    """The web page for people, at /chat."""

    on: bool | None = Field(
        None,
        description="Whether the page is served; by default where no token is needed: on loopback, without callers.",
    )
    title: str = Field("Assistant", min_length=1, max_length=60, description="Name that people read.")
    welcome: str = Field(
        "What can I do for you?", max_length=200, description="Words above an empty conversation."
    )
    about: str = Field("", max_length=1000, description="Lines below the welcome.")
    suggestions: tuple[str, ...] = Field((), max_length=8, description="Messages that one click sends.")
    accent: str = Field("#0f766e", pattern=r"^#[0-9a-fA-F]{6}$", description="Colour of buttons and links.")
    language: str = Field(
        "en", pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="Language of the texts."
    )
    texts: dict[str, str] = Field(
        default_factory=dict,
        description="Texts that stand in for those of noria.assistant.web.texts, by key.",
    )
    accounts: bool = Field(True, description="Whether people may make accounts with a passphrase.")
    days: float = Field(180.0, gt=0, le=400, description="Days for which a browser is remembered.")
    picture_bytes: int = Field(
        12 << 20, ge=1 << 10, le=64 << 20, description="Largest picture that is taken."
    )
    image_hosts: tuple[Annotated[str, Field(pattern=_ORIGIN)], ...] = Field(
        (),
        description="Origins of which the page shows pictures of products, such as https://cdn.shop.example.",
    )
    hosts: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")], ...] = Field(
        (),
        description="Host names by which people reach the page; / leads to it, and operators need the token.",
    )
    secure: bool = Field(False, description="Whether people reach the page over HTTPS, by a proxy.")
    embed: tuple[Annotated[str, Field(pattern=_ORIGIN)], ...] = Field(
        (), description="Origins of the pages that may embed /chat/embed."
    )
    at_once: int = Field(8, ge=1, le=512, description="Messages that are answered at once.")
    queue: int = Field(100, ge=0, le=10_000, description="Messages that may wait for a place.")
    messages_per_minute: int = Field(20, ge=1, le=1000, description="Most messages of a user in any minute.")
    budget_per_day: float | None = Field(
        None, ge=0, description="Most that all answers of the page may cost in a day (UTC)."
    )
    compare: CompareConfig | None = Field(None, description="Two answers side by side; none by default.")
