"""The page of parts: what is in the bundle that serves, and what each part contributes by the last ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.assistant.folder import ABLATIONS_FOLDER
from noria.assistant.service.bundles import CHAMPION, Bundles
from noria.core.errors import DataError
from noria.core.learning.routes.route import KIND as ROUTE
from noria.core.records import json_object
from noria.core.service.serving import Request
from noria.core.traces.store import TraceStore

TONES = {"helps": "supported", "hurts": "refuted"}


class PartPages:
    """Contents of the page of parts.

    Args:
        store: traces.
        bundles: bundles and pointers.
    """

    def __init__(self, store: TraceStore, bundles: Bundles) -> None:
        self.store, self.bundles = store, bundles

    def parts(self, request: Request) -> Mapping[str, Any]:
        """The parts of the bundle that serves, and the newest ablation of which something is known."""
        move = self.bundles.pointers.present(CHAMPION)
        serving = "" if move is None else move.bundle
        artefacts = dict(self.bundles.artefacts.load_bundle(serving).artefacts) if serving else {}
        number, result = self._newest()
        return {
            "serving": serving,
            "artefacts": {kind: digest for kind, digest in artefacts.items() if kind != ROUTE},
            "off": self.bundles.parts_of(serving)[1] if serving else {},
            "number": number,
            "ablation": result,
            "rows": _rows(result["parts"] if result else []),
            "of_another": bool(result) and (result or {}).get("bundle") != serving,
        }

    def _newest(self) -> tuple[int, Mapping[str, Any] | None]:
        home = Path(self.store.folder) / ABLATIONS_FOLDER
        for folder in sorted(home.glob("[0-9]*"), reverse=True):
            path = folder / "result.json"
            try:
                if path.exists():
                    return int(folder.name), json_object(path, "an ablation")
            except (DataError, ValueError):
                continue
        return 0, None


def _rows(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The contributions with the place of each interval on one axis, in percent of its width; 0 is in the middle."""
    ends = [abs(one[end]) for one in parts for end in ("low", "high") if one.get(end) is not None]
    widest = max(ends, default=0.0) or 1.0

    def place(value: float) -> float:
        return round(50 + 48 * value / widest, 2)

    rows = []
    for one in parts:
        known = one.get("low") is not None
        bar = None
        if known:
            left, right = place(one["low"]), place(one["high"])
            bar = {"left": left, "width": max(0.6, right - left), "at": place(one["effect"])}
        rows.append({**one, "bar": bar, "tone": TONES.get(str(one["verdict"]), "inconclusive")})
    return rows
