"""Removal of a gateway's old versions: what nothing serves, tests, learns from or may be rolled back to."""

from __future__ import annotations

import json
import logging
import re

from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.plan import TURN
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
