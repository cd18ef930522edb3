"""The ranked list in the form of its request, with the account of every item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from noria.blending.blender import Blender, RankedList
from noria.blending.boosting.scoring import members
from noria.blending.columns import Candidates, NameColumn
from noria.blending.service.wire.requests import ARROW, RankRequest
from noria.core.errors import needing, require
from noria.core.service.serving import Response, json_response

with needing("serve"):
    import msgspec


_encode = msgspec.json.Encoder().encode


def answer(
    request: RankRequest,
    ranked: RankedList,
    head: Mapping[str, Any],
    blender: Blender,
    *,
    explain: bool = False,
) -> Response:
    """The ranked list in the form of its request.

    Args:
        request: request that is answered.
        ranked: the ranked list.
        head: fields of the answer beside the list: id, snapshot, took.
        blender: blender that ranked it.
        explain: add the whole account of every item.
    """
    item = request.candidates.item
    items = [item[row] for row in ranked.order.tolist()]
    boosts = _boosts(ranked)
    values: dict[str, Any] = dict(head)
    if ranked.dropped:
        values["dropped"] = dict(ranked.dropped)
    if request.form == "rows":
        rows: list[dict[str, Any]] = [
            {"item": one, "score": score, "value": value}
            for one, score, value in zip(items, ranked.score.tolist(), ranked.value.tolist(), strict=True)
        ]
        for plan, (places, amounts) in boosts.items():
            for place, amount in zip(places, amounts, strict=True):
                rows[place].setdefault("boost", {})[plan] = amount
        for place in np.flatnonzero(ranked.guard).tolist():
            rows[place]["guard"] = float(ranked.guard[place])
        if explain:
            for place, row in enumerate(rows):
                row["explain"] = explanation(request.candidates, ranked, blender, place)
        return json_response(_encode(values | {"items": rows}))
    if request.form == "arrow":
        headers = {"content-type": ARROW, "cache-control": "no-store"}
        return Response(_arrow_answer(ranked, items, values), 200, headers)
    values |= {"items": items, "score": ranked.score.tolist(), "value": ranked.value.tolist()}
    values["boost"] = {
        plan: {"places": places, "amounts": amounts} for plan, (places, amounts) in boosts.items()
    }
    if ranked.guard.any():
        values["guard"] = ranked.guard.tolist()
    if explain:
        values["explain"] = [
            explanation(request.candidates, ranked, blender, place) for place in range(len(items))
        ]
    return json_response(_encode(values))


def explanation(candidates: Candidates, ranked: RankedList, blender: Blender, place: int) -> dict[str, Any]:
    """Why a candidate stands at a place: from raw score to value to boosts, each with the numbers that made it."""
    record = ranked.explain(place)
    row = record.pop("row")
    source = candidates.source
    name = source.names[source.codes[row]]
    version = candidates.columns.get("version")
    model = ""
    if isinstance(version, NameColumn) and version.codes[row] >= 0:
        model = version.names[version.codes[row]]
    record |= {"raw": float(candidates.score[row]), "source": name, "version": model}
    result = blender.snapshot.alignment.find(candidates.scene, name, model)
    if result is not None:
        key, stands_in = result
        record["aligner"] = {"key": list(key), "stands_in": stands_in}
    record["plans"] = [
        {
            "plan": plan,
            "amount": amount,
            **dict(zip(("weight", "bias"), blender.snapshot.weight_and_bias(plan), strict=True)),
        }
        for plan, amount in record["plans"].items()
    ]
    return record


def _boosts(ranked: RankedList) -> dict[str, tuple[list[int], list[float]]]:
    """Places that each plan hits, and its contributions there."""
    bits, places = np.nonzero(members(ranked.mask, len(ranked.plans)).T)
    amounts = ranked.contributions[places, bits].tolist()
    ends = np.cumsum(np.bincount(bits, minlength=len(ranked.plans))).tolist()
    listed = places.tolist()
    result, begin = {}, 0
    for plan, end in zip(ranked.plans, ends, strict=True):
        if end > begin:
            result[plan] = listed[begin:end], amounts[begin:end]
        begin = end
    return result


def _arrow_answer(ranked: RankedList, items: list[Any], values: Mapping[str, Any]) -> bytes:
    pa: Any = require("pyarrow", "blending")
    arrays = {
        "item": pa.array(items),
        "row": pa.array(ranked.order),
        "score": pa.array(ranked.score),
        "value": pa.array(ranked.value),
        "mask": pa.array(ranked.mask),
        "guard": pa.array(ranked.guard),
    }
    hit = members(ranked.mask, len(ranked.plans))
    for bit in np.flatnonzero(hit.any(axis=0)).tolist():
        arrays[f"boost.{ranked.plans[bit]}"] = pa.array(ranked.contributions[:, bit])
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in arrays.items()], {"answer": json.dumps(dict(values))}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return bytes(sink.getvalue().to_pybytes())
