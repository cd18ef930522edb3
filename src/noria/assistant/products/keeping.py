"""Feeds of a gateway that runs: each is looked at when it is due, and taken in when it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from noria.assistant.config.products import FeedConfig
from noria.assistant.products.catalogue import NAME, Catalogue, Changes
from noria.assistant.products.config import UpdateConfig
from noria.assistant.products.feeds import LARGEST, FeedReading
from noria.assistant.products.updating import FeedUpdate, checked_feed, read_pictures, update_feed
from noria.core.errors import ConfigError, NoriaError, RunError, needing
from noria.core.fetching import within
from noria.core.files import disk_errors, write_atomic

RETRY = 60.0
"""Seconds after which a feed that failed is looked at again, at most its own pause."""
RETRY_PICTURES = 3600.0
"""Seconds after which pictures that could not be read are tried again while their feed stays the same."""
_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".xml")


@dataclass(frozen=True)
class Fetched:
    """A feed as it was fetched.

    Attributes:
        path: file of the feed.
        mark: what tells that it has changed: a file's time and size, or what the server said of the version.
    """

    path: Path
    mark: str


class FeedKeeper:
    """Keeps the catalogue of a gateway up to date.

    Args:
        folder: folder of the gateway.
        feeds: settings of the feeds by name.
        tell: hears what changed and what failed.
    """

    def __init__(self, folder: Path, feeds: Mapping[str, FeedConfig], tell: Callable[..., None]) -> None:
        self.folder, self.feeds, self.tell = Path(folder), dict(feeds), tell
        self._next = dict.fromkeys(self.feeds, 0.0)
        self._next_pictures = dict.fromkeys(self.feeds, 0.0)  # a start does what one that was killed left
        self._failed: dict[str, str] = {}

    def step(self) -> None:
        """Look at the feeds that are due. It may take minutes, and belongs into a thread of its own."""
        for name, config in self.feeds.items():
            if time.monotonic() < self._next[name]:
                continue
            self._next[name] = time.monotonic() + config.every
            try:
                update = self.look(name)
            except NoriaError as error:
                self._next[name] = time.monotonic() + min(RETRY, config.every)
                if self._failed.get(name) != str(error):  # once for each reason
                    self.tell("feed failed", feed=name, error=str(error))
                self._failed[name] = str(error)
                continue
            self._failed.pop(name, None)
            if update is not None:
                change = update.changes
                self.tell(
                    "feed", feed=name, added=change.added, changed=change.changed, removed=change.removed,
                    bad_rows=update.reading.bad, bad_pictures=update.missing_count,
                )  # fmt: skip

    def look(self, name: str) -> FeedUpdate | None:
        """Take in a feed if it has changed, or pictures of it that are still due; None where nothing is new.

        Raises:
            NoriaError: it cannot be had, or is no feed.
        """
        config = self.feeds[name]
        catalogue = Catalogue(self.folder / NAME)
        try:
            state = catalogue.state(name)
            fetched = (
                self._file(config) if config.url is None else self._fetch(name, config, state.get("mark"))
            )
            if fetched is None or fetched.mark == state.get("mark"):
                return self._look_for_pictures(catalogue, name, state)
            settings = UpdateConfig(fetch_pictures=config.fetch_pictures)
            update = update_feed(catalogue, name, checked_feed(fetched.path), settings, mark=fetched.mark)
            self._next_pictures[name] = time.monotonic() + RETRY_PICTURES
        finally:
            catalogue.close()
        return update

    def _look_for_pictures(
        self, catalogue: Catalogue, name: str, state: Mapping[str, Any]
    ) -> FeedUpdate | None:
        """Read pictures of a feed that were not read when it was taken in; None where none could be."""
        if not state or time.monotonic() < self._next_pictures[name]:
            return None
        update = FeedUpdate(Changes(), FeedReading())
        read_pictures(catalogue, name, Path(state["file"]).parent, update, self.feeds[name].fetch_pictures)
        self._next_pictures[name] = time.monotonic() + RETRY_PICTURES
        return update if update.pictures else None

    def _file(self, config: FeedConfig) -> Fetched:
        assert config.path is not None
        with disk_errors(config.path):
            status = config.path.stat()
        return Fetched(config.path, f"{status.st_mtime_ns} {status.st_size}")

    def _fetch(self, name: str, config: FeedConfig, mark: str | None) -> Fetched | None:
        """The feed of an address as a file; None where the server says that it has not changed."""
        with needing("serve"):
            import httpx2
        assert config.url is not None
        headers = {"user-agent": "noria", "connection": "close"}
        if config.key_env is not None:
            if config.key_env not in os.environ:
                raise ConfigError(
                    f"the environment variable {config.key_env} is not set", where=f"feed {name}"
                )
            headers["authorization"] = f"Bearer {os.environ[config.key_env]}"
        if mark:
            headers["if-none-match" if mark.startswith(('"', "W/")) else "if-modified-since"] = mark
        try:
            with (
                within(config.seconds, f"feed {name}") as extensions,
                httpx2.Client(timeout=60, follow_redirects=True) as client,
                client.stream("GET", config.url, headers=headers, extensions=extensions) as reply,
            ):
                if reply.status_code == 304:
                    return None
                if reply.status_code != 200:
                    raise RunError(f"the server answers {reply.status_code}", where=f"feed {name}")
                content = bytearray()
                for piece in reply.iter_bytes():
                    content += piece
                    if len(content) > LARGEST:
                        raise RunError(f"more than {LARGEST:,} bytes", where=f"feed {name}")
                said = reply.headers
        except httpx2.HTTPError as error:
            raise RunError(f"no answer: {type(error).__name__}", where=f"feed {name}") from None
        kind = said.get("content-type", "")
        suffix = f".{config.format}" if config.format else _suffix(config.url, kind)
        path = self.folder / "feeds" / f"{name}{suffix}"
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
        write_atomic(path, bytes(content))
        return Fetched(path, said.get("etag") or said.get("last-modified") or str(time.time()))


def _suffix(url: str, media_type: str) -> str:
    suffix = Path(urlsplit(url).path).suffix.lower()
    if suffix in _SUFFIXES:
        return suffix
    kinds = {"xml": ".xml", "csv": ".csv", "tab-separated": ".tsv", "json": ".jsonl"}
    return next((one for word, one in kinds.items() if word in media_type), ".csv")
