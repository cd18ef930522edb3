"""The service's description in OpenAPI 3.1; schemas of bodies are made from the types that read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from noria import __version__
from noria.blending.plans.plans import Plans
from noria.blending.service.wire.intake import Impressions, Outcomes, Rollback, Switch
from noria.blending.service.wire.requests import ARROW, RankBody
from noria.core.errors import needing
from noria.core.service.serving import Route

with needing("serve"):
    import msgspec
    from msgspec import UNSET, Meta, UnsetType


class Ranked(msgspec.Struct):
    """A ranked list; boosts by plan, value and guard sum to the score."""

    id: Annotated[str, Meta(description="Id of the request, to send with its impressions and outcomes.")]
    version: Annotated[int, Meta(description="Version of the snapshot that ranked.")]
    snapshot: Annotated[str, Meta(description="Digest of the snapshot that ranked.")]
    control: Annotated[bool, Meta(description="Whether the list is ranked by value alone.")]
    logged: Annotated[bool, Meta(description="Whether the decision is in the service's log.")]
    items: Annotated[list[Any], Meta(description="Rows of the list, or ids for a request in columns.")]
    took: Annotated[float | UnsetType, Meta(description="Milliseconds of the ranking.")] = UNSET
    dropped: dict[str, int] | UnsetType = UNSET
    score: list[float] | UnsetType = UNSET
    value: list[float] | UnsetType = UNSET
    boost: dict[str, Any] | UnsetType = UNSET
    guard: list[float] | UnsetType = UNSET


class Accepted(msgspec.Struct):
    """Number of events that were taken in, and of those whose client's clock differs too much."""

    accepted: int
    skewed: int


class Changed(msgspec.Struct):
    """Version and digest of the snapshot that serves now."""

    version: int
    snapshot: str


class Fault(msgspec.Struct):
    """What is wrong, in a line for people and a code for programs."""

    message: str
    code: str
    param: str | None = None


class Error(msgspec.Struct):
    """An error response."""

    error: Fault


_BODIES = {
    "rank": RankBody,
    "impressions": Impressions,
    "outcomes": Outcomes,
    "switches": Switch,
    "rollback": Rollback,
}
_ANSWERS = {
    "rank": Ranked,
    **dict.fromkeys(("impressions", "outcomes"), Accepted),
    **dict.fromkeys(("snapshots", "plans", "switches", "rollback"), Changed),
}
_OWN = "#/components/schemas/Plans/$defs/{model}"
_QUERIES = {
    "rank": {"explain": "boolean"},
    "plans": {"dry": "boolean"},
    "what-if": {"plan": "string", "weight": "number", "bias": "number", "on": "boolean"},
}


def description(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of some routes, each with the first line of its function's docstring."""
    kinds = [*_BODIES.values(), *_ANSWERS.values(), Error]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    bodies = dict(zip(_BODIES, schemas, strict=False)) | {
        "plans": {"$ref": "#/components/schemas/Plans"},
        "snapshots": {"type": "object", "description": "A snapshot, as `noria blending fit` writes it."},
    }
    answers = dict(zip(_ANSWERS, schemas[len(_BODIES) :], strict=False))
    paths: dict[str, Any] = {}
    for one in routes:
        guarded: Any = one.endpoint
        line = (guarded.endpoint.__doc__ or "").strip().splitlines()[0].partition(": ")[2]
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", one.path)
        for method in sorted((one.methods or set()) - {"HEAD"}):
            operation = _operation(path, method, guarded.access == "write", line, bodies, answers)
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "noria blending", "version": __version__, "description": (__doc__ or "").strip()},
        "paths": paths,
        "components": {
            "schemas": components | {"Plans": Plans.model_json_schema(ref_template=_OWN)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    path: str, method: str, is_guarded: bool, line: str, bodies: dict[str, Any], answers: dict[str, Any]
) -> dict[str, Any]:
    name = path.split("/")[1]
    parameters = [
        {"name": inner, "in": "path", "required": True, "schema": {"type": "string"}}
        for inner in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [
        {"name": query, "in": "query", "schema": {"type": kind}}
        for query, kind in _QUERIES.get(name, {}).items()
    ]
    answer = answers.get(name, {"type": "object"}) if method == "POST" else {}
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
    schema = bodies.get(name)
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
