"""The service's description in OpenAPI 3.1; schemas of bodies are made from the types that read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from noria import __version__
from noria.blending.plans.plans import Plans
from noria.blending.service.wire.intake import Impressions, Outcomes
from noria.blending.service.wire.requests import ARROW, RankBody
from noria.core.errors import needing

with needing("serve"):
    import msgspec

_BODIES = {"rank": RankBody, "impressions": Impressions, "outcomes": Outcomes}
_LISTED = {
    "type": "object",
    "required": ["id", "version", "snapshot", "control", "logged", "items"],
    "properties": {
        "id": {
            "type": "string",
            "description": "Id of the request, to send with its impressions and outcomes.",
        },
        "version": {"type": "integer", "description": "Version of the snapshot that ranked."},
        "snapshot": {"type": "string", "description": "Digest of the snapshot that ranked."},
        "control": {"type": "boolean", "description": "Whether the list is ranked by value alone."},
        "logged": {"type": "boolean", "description": "Whether the decision is in the service's log."},
        "took": {"type": "number", "description": "Milliseconds of the ranking."},
        "dropped": {"type": "object", "additionalProperties": {"type": "integer"}},
        "items": {
            "type": "array",
            "description": "Rows of the list, or ids where the request came in columns.",
        },
        "score": {"type": "array", "items": {"type": "number"}},
        "value": {"type": "array", "items": {"type": "number"}},
        "boost": {
            "type": "object",
            "description": "Contributions by plan; with value and guard they sum to the score.",
        },
        "guard": {"type": "array", "items": {"type": "number"}},
    },
}
_TAKEN = {
    "type": "object",
    "required": ["accepted", "skewed"],
    "properties": {"accepted": {"type": "integer"}, "skewed": {"type": "integer"}},
}
_CHANGED = {
    "type": "object",
    "required": ["version", "snapshot"],
    "properties": {"version": {"type": "integer"}, "snapshot": {"type": "string"}},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "code"],
            "properties": {
                "message": {"type": "string"},
                "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        }
    },
}


def description(routes: Sequence[tuple[str, str, bool, str]]) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        routes: path, method, whether it needs the token, and one line on each route of the service.
    """
    schemas = msgspec.json.schema_components(
        list(_BODIES.values()), ref_template="#/components/schemas/{name}"
    )
    bodies = dict(zip(_BODIES, schemas[0], strict=True))
    paths: dict[str, Any] = {}
    for path, method, is_guarded, line in routes:
        plain = re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
        paths.setdefault(plain, {})[method.lower()] = _operation(plain, method, is_guarded, line, bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "noria blending", "version": __version__, "description": (__doc__ or "").strip()},
        "paths": paths,
        "components": {
            "schemas": dict(schemas[1])
            | {"Error": _ERROR, "Plans": Plans.model_json_schema(ref_template=_OWN)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_OWN = "#/components/schemas/Plans/$defs/{model}"
_QUERIES = {
    "rank": {"explain": "boolean"},
    "plans": {"dry": "boolean"},
    "what-if": {"plan": "string", "weight": "number", "bias": "number", "on": "boolean"},
}
_ANSWERS = {
    "rank": _LISTED,
    **dict.fromkeys(("impressions", "outcomes"), _TAKEN),
    **dict.fromkeys(("snapshots", "plans", "switches", "rollback"), _CHANGED),
}
_OTHERS = {
    "plans": {"$ref": "#/components/schemas/Plans"},
    "switches": {
        "type": "object",
        "required": ["on"],
        "properties": {"on": {"type": "boolean"}, "plan": {"type": ["string", "null"]}},
        "additionalProperties": False,
    },
    "rollback": {
        "type": "object",
        "required": ["version"],
        "properties": {"version": {"type": "integer"}},
        "additionalProperties": False,
    },
    "snapshots": {"type": "object", "description": "A snapshot's file, as `noria blending fit` writes it."},
}


def _operation(path: str, method: str, is_guarded: bool, line: str, bodies: dict[str, Any]) -> dict[str, Any]:
    name = path.split("/")[1]
    parameters = [
        {"name": inner, "in": "path", "required": True, "schema": {"type": "string"}}
        for inner in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [
        {"name": query, "in": "query", "schema": {"type": kind}}
        for query, kind in _QUERIES.get(name, {}).items()
    ]
    answer = _ANSWERS.get(name, {"type": "object"}) if method == "POST" else {}
    wrong = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    result: dict[str, Any] = {
        "summary": line,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": answer}}},
            "4XX": {"description": "Refused, and nothing was taken in.", "content": wrong},
            "5XX": {"description": "Not now: try again after `retry-after`.", "content": wrong},
        },
    }
    if is_guarded:
        result["security"] = [{"token": []}]
    schema = bodies.get(name) or _OTHERS.get(name)
    if method == "POST" and schema is not None:
        content: dict[str, Any] = {"application/json": {"schema": schema}}
        if name == "rank":
            stream = {"schema": {"type": "string", "format": "binary"}}
            content[ARROW] = stream
            result["responses"]["200"]["content"][ARROW] = stream
        if name == "plans":
            content["application/yaml"] = {"schema": schema}
        result["requestBody"] = {"required": True, "content": content}
    return result
