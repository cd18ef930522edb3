"""A gateway's folder as a whole, without its service: its secret, logs that come in, data sets that go out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.core.errors import ConfigError, RunError
from noria.core.experiments.splits import LEFT_OUT
from noria.core.files import read_text
from noria.core.storage.control import Control, SQLControl, SQLiteControl, StaleVersion
from noria.core.storage.journal_file import NAME as JOURNAL
from noria.core.storage.postgres import PostgresControl
from noria.core.traces.datasets import Layout, examples, rows
from noria.core.traces.ids import user_key
from noria.core.traces.imports import ImportCounts, Imported, import_traces
from noria.core.traces.redaction import open_redactor
from noria.core.traces.store import TraceStore, UnknownTrace, read_views
from noria.core.versions.artefacts import ArtefactStore

TURNS_FOLDER, ABLATIONS_FOLDER = "turns", "ablations"
"""Folders in that of a gateway whose files hold traces while they are learnt from."""
MOST_TRACES = 1_000_000
"""Newest traces out of which a data set is made."""
AT_ONCE = 256
"""Traces of a log that share a sync of the disk."""


def read_secret(folder: Path, *, new: str | None = None) -> bytes:
    """The secret that turns users' names into keys, made at the first start.

    Args:
        folder: folder of the gateway.
        new: the secret to keep where there is none; a random one by default.

    Raises:
        RunError: it cannot be read or written.
    """
    path = Path(folder) / "secret"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = read_text(path, limit=4096).strip()
        if len(text) < 32:
            raise RunError("it holds no secret", where=str(path), mend="restore it from a backup") from None
        return text.encode()
    except OSError as error:
        raise RunError(f"cannot write: {error.strerror}", where=str(path)) from None
    text = new or secrets.token_hex(32)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return text.encode()


def open_control(folder: Path, config: AssistantConfig) -> SQLControl:
    """The control documents of a gateway: its own file, or the database that it shares with others.

    Raises:
        ConfigError: the environment variable of the database is not set.
        RunError: the database refuses.
    """
    if config.control_env is None:
        return SQLiteControl(Path(folder) / "control.sqlite")
    url = os.environ.get(config.control_env)
    if not url:
        raise ConfigError(
            f"the environment variable {config.control_env} is not set",
            where="control_env",
            mend="set it to an address such as postgresql://user:password@host:5432/database",
        )
    return PostgresControl(url)


def open_versions(folder: Path, config: AssistantConfig) -> ArtefactStore:
    """The versions of a gateway: in its folder, or in the one that it shares with others."""
    return ArtefactStore(config.versions or Path(folder) / "versions")


def check_secret(control: Control, secret: bytes, folder: Path) -> None:
    """Check that all gateways on one control have one secret: a user has the same key, and so the same arm, everywhere.

    Raises:
        ConfigError: it is another one.
    """
    digest = hashlib.sha256(b"noria gateways share " + secret).hexdigest()
    with contextlib.suppress(StaleVersion):  # another gateway noted it first
        if control.read("secret", "digest") is None:
            control.write("secret", "digest", {"sha256": digest}, based_on=0, by="gateway")
    kept = control.read("secret", "digest")
    if kept is None or kept.value is None or kept.value["sha256"] != digest:
        raise ConfigError(
            "the secret is another one than that of the gateways on this control",
            where=str(folder / "secret"),
            mend="copy the file from the first gateway's folder before the first start",
        )


def service_name(folder: Path) -> str:
    """Name of a gateway among those that share a control: its machine and folder."""
    return f"{socket.gethostname()}:{Path(folder).resolve()}"


def data_salt(control: Control) -> str:
    """Text that deals people and contents to the splits of data sets; made once, and kept."""
    document = control.read("salt", "datasets")
    if document is None:
        with contextlib.suppress(StaleVersion):  # another process made it at the same moment
            control.write("salt", "datasets", {"salt": secrets.token_hex(16)}, based_on=0, by="gateway")
        document = control.read("salt", "datasets")
    assert document is not None
    assert document.value is not None
    return str(document.value["salt"])


def dataset_rows(
    folder: Path, salt: str, layout: Layout, split: str
) -> tuple[Iterable[dict[str, Any]], int, int]:
    """Rows of a data set out of the traces of a folder, beside the gateway; answers in the shadow are left out.

    Returns:
        The rows; the number of chats, and of those that lie in no split since they share a content with another one.

    Raises:
        RunError: there is no journal.
    """
    views = (view for view in read_views(folder, limit=MOST_TRACES) if "shadow" not in view.trace.labels)
    found = examples(views, salt=salt)
    lost = sum(one.split == LEFT_OUT for one in found)
    return rows([one for one in found if one.split == split], layout), len(found), lost


@dataclass
class LogImport:
    """Counts of an import of logs.

    Attributes:
        counts: traces and spans that were read, and what was skipped with its reasons.
        new: traces that are new.
        known: traces that were there already.
        redactions: places that were redacted, by their kind.
        pictures: pictures that were taken out.
    """

    counts: ImportCounts = field(default_factory=ImportCounts)
    new: int = 0
    known: int = 0
    redactions: Counter[str] = field(default_factory=Counter)
    pictures: int = 0


def import_logs(
    folder: Path,
    paths: Sequence[Path],
    *,
    caller: str = "imported",
    keep_personal: Sequence[str] = (),
    find_personal: Sequence[str] = (),
    keep_pictures_days: float | None = None,
    seen: Callable[[int], None] = lambda count: None,
) -> LogImport:
    """Take traces of other tools into a folder; the same log again adds nothing.

    Users are kept under a key that needs the folder's secret, as those of live traffic.

    Args:
        folder: folder of a gateway that does not run, or a new one.
        paths: logs in OTLP JSON, of the console exporter, or exports of Langfuse or Phoenix.
        caller: name of the caller that the traces bear.
        keep_personal: kinds of personal data that are not redacted.
        find_personal: recognisers of personal data beside those of a form, each `package.module:function`.
        keep_pictures_days: days for which pictures are kept. None keeps new ones until their user is erased, and those
            that are there for as long as they were to be kept.
        seen: hears the number of traces so far.

    Raises:
        RunError: a gateway uses the folder, or the disk refuses.
        DataError: a log holds no span of a known format.
        ConfigError: a kind of personal data is not known, or a recogniser cannot be imported.
    """
    redactor = open_redactor(keep=keep_personal, find=find_personal)
    new = None if (folder / "secret").exists() else secrets.token_hex(32)
    secret = read_secret(folder) if new is None else new.encode()
    result = LogImport()

    def key(user: str) -> str:
        return user_key(secret, f"{caller}\0{user}")

    # Each log is read through before its first trace: where one is damaged, none is taken in and no folder is made.
    logs = [
        import_traces(path, redactor=redactor, counts=result.counts, user=key, caller=caller)
        for path in paths
    ]
    traces = chain(*[chain([next(log)], log) for log in logs])
    folder.mkdir(parents=True, exist_ok=True)
    read_secret(folder, new=new)

    expires = None if keep_pictures_days is None else int(time.time() + 86400 * keep_pictures_days)

    async def run() -> None:
        store = TraceStore(folder)
        try:
            while batch := list(islice(traces, AT_ONCE)):
                await _keep(store, batch, result, expires)
                seen(result.new + result.known)
            store.index.follow(folder)
        finally:
            store.close()

    asyncio.run(run())
    return result


async def _keep(store: TraceStore, batch: Sequence[Imported], result: LogImport, expires: int | None) -> None:
    new = [one for one in batch if not _is_known(store, one.trace.id)]
    await asyncio.gather(*(store.write(one.trace, blobs=one.blobs, expires=expires) for one in new))
    result.new += len(new)
    result.known += len(batch) - len(new)
    for one in new:
        result.redactions.update(one.trace.redactions)
        result.pictures += len(one.blobs)


def _is_known(store: TraceStore, trace: str) -> bool:
    try:
        store.read(trace)
    except UnknownTrace:
        return False
    return True


@contextlib.contextmanager
def opened_control(folder: Path) -> Iterator[SQLiteControl]:
    """The control documents of a folder that holds traces.

    Raises:
        RunError: it is no folder of a gateway.
    """
    if not (Path(folder) / JOURNAL).exists():
        raise RunError("it is no folder of a gateway", where=str(folder), mend="name it by --folder")
    control = SQLiteControl(Path(folder) / "control.sqlite")
    try:
        yield control
    finally:
        control.close()
