"""Removal at a gateway: old versions that nothing needs, and what lies beside the traces of a user who is erased."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from noria.assistant.folder import ABLATIONS_FOLDER, TURNS_FOLDER
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.core.experiments.figures import forget_unit
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.ending import forget_frozen, forget_traces
from noria.core.learning.plan import TURN
from noria.core.storage.control import SQLControl
from noria.core.traces.store import TraceStore
from noria.core.versions.retention import Removal, prune

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
log = logging.getLogger("noria.serving")


def remove_old(bundles: Bundles, holder: str) -> Removal:
    """Remove versions that nothing names any more, at one gateway at a time; none where the configuration keeps all.

    What stays: the configured routes, the bundles of the newest moves of the champion, and every version that an open
    experiment or one of the newest turns names.

    Args:
        bundles: bundles of the gateway, after its start.
        holder: name of the gateway.

    Raises:
        NoriaError: a bundle is damaged, or the disk refuses.
    """
    control, keep = bundles.control, bundles.config.keep_versions
    lease = None if keep is None else control.acquire("retention", holder, seconds=600)
    if keep is None or lease is None:
        return Removal()
    experiments = [one for one in control.read_all(EXPERIMENT) if (one.value or {}).get("stage") in OPEN]
    named = {move.bundle for move in bundles.pointers.history(CHAMPION)[-keep:]} | {*bundles.named.values()}
    for document in [*experiments, *control.read_all(TURN)[-keep:]]:
        named.update(_DIGEST.findall(json.dumps(document.value)))
    try:
        removal = prune(bundles.artefacts, named, artefacts=named)
    finally:
        control.release(lease)
    if removal.artefacts:
        log.info("%d old versions of %d bytes were removed", removal.artefacts, removal.bytes)
    return removal


@asynccontextmanager
async def forgetting(store: TraceStore, control: SQLControl, user: str) -> AsyncIterator[None]:
    """Held while a user is erased: what is learnt from their traces stops before they go, and figures go behind them.

    Before, since an erasure that fails is tried again, and then finds the traces still; and once more after it, for
    what was frozen meanwhile.

    Raises:
        RunError: the disk or the database refuses.
    """
    traces = await asyncio.to_thread(_traces_of, store, user)
    await asyncio.to_thread(_forget, store, control, traces)
    yield
    await asyncio.to_thread(_forget, store, control, traces)
    await asyncio.to_thread(forget_unit, control, user)


def _traces_of(store: TraceStore, user: str) -> frozenset[str]:
    """Traces of a user, and those that the user spoke of."""
    store.index.follow(store.folder)
    return frozenset(store.index.traces_of(user)) | {trace for trace, _ in store.index.said_by(user)}


def _forget(store: TraceStore, control: SQLControl, traces: frozenset[str]) -> None:
    forget_traces(store.folder / TURNS_FOLDER, control, traces)
    forget_frozen(store.folder / ABLATIONS_FOLDER, traces)
