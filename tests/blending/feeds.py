"""A feed of three sources with four plans, and requests of it in every form."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from noria.blending import Alignment, Plans, Snapshot

TOKEN = "a-token-of-the-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SCALES = {"organic": 1.0, "live": 0.01, "ads": 2.0}
PLANS: dict[str, Any] = {
    "plans": [
        {"id": "live", "when": 'source == "live"', "bias": 0.1, "owner": "live team"},
        {"id": "cold", "when": "age < 10", "weight": 0.5, "cap": 0.6},
        {"id": "old", "when": "age >= 50", "weight": -0.2},
        {"id": "sport", "when": '"sport" in tags', "weight": 0.1, "bias": 0.05},
    ],
    "guards": {"total_cap": 0.8, "floor": 0.05},
}


def snapshot(
    plans: dict[str, Any] = PLANS, *, version: int = 1, created: float = 1e9, scale: float = 1.0
) -> Snapshot:
    scales = {source: scale * one for source, one in SCALES.items()}
    return Snapshot.of(
        Alignment.of_scales(scales, mean_value=0.4 * scale),
        Plans.model_validate(plans),
        version=version,
        created=created,
    )


def saved(folder: Path, **options: Any) -> Path:
    path = folder / "snapshot.json"
    snapshot(**options).save(path)
    return path


def columns(count: int, seed: int = 0) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    names = list(SCALES)
    source = rng.integers(len(names), size=count)
    value = rng.random(count)
    return {
        "item": [f"i{seed}-{n}" for n in range(count)],
        "score": (value / np.array(list(SCALES.values()))[source]).tolist(),
        "source": [names[s] for s in source],
        "age": (rng.random(count) * 100).round(1).tolist(),
        "tags": [["sport", "news"][: n % 3] for n in range(count)],
    }


def rows(given: dict[str, list[Any]], **head: Any) -> bytes:
    """As Metarank's clients send them."""
    items = []
    for n, item in enumerate(given["item"]):
        fields = [
            {"name": k, "value": v[n]} for k, v in given.items() if k not in ("item", "score", "source")
        ]
        items.append({"id": item, "score": given["score"][n], "source": given["source"][n], "fields": fields})
    return json.dumps({**head, "items": items}).encode()


def as_columns(given: dict[str, Any], **head: Any) -> bytes:
    return json.dumps({**head, "columns": given}).encode()


def arrow(given: dict[str, Any], *, options: Any = None, **head: Any) -> bytes:
    table = pa.table(given).replace_schema_metadata({"request": json.dumps(head)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def ask(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 30,
) -> tuple[int, Any]:
    """Status and body; JSON and Arrow are read, and what is neither comes as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json"} | (headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        kind = answer.getheader("content-type") or ""
        return answer.status, json.loads(content) if kind == "application/json" else content
    finally:
        connection.close()
