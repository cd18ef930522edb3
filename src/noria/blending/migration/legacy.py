"""Boosts of another system: what they do to scores, and the plans that keep their shares without the inflation.

Two kinds are read: a table of multipliers, applied one after the other (a later one multiplies an earlier one's
bias), and an Elasticsearch or OpenSearch `function_score` query whose functions are constant weights. Both turn a raw
score x into z; the list is then by α' z, with α' fitted after the boosts, so that it takes in what they have in
common: raise all of them and nothing is seen. This is how boosts race upwards, and the control arm of Uniboost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from noria.blending.columns import Column
from noria.blending.plans.matching import evaluate
from noria.blending.plans.plans import Identifier, Plans, When
from noria.blending.plans.targeting import parse
from noria.core.config import Config, load_config
from noria.core.errors import ConfigError, DataError
from noria.core.records import read_json

Floats = NDArray[np.float64]
ScoreMode: TypeAlias = Literal["multiply", "sum", "avg", "first", "max", "min"]
BoostMode: TypeAlias = Literal["multiply", "replace", "sum", "avg", "max", "min"]


class Legacy:
    """Boosts of another system."""

    @property
    def boosts(self) -> Sequence[tuple[str, str]]:
        """(id, targeting expression) of each."""
        raise NotImplementedError

    def boosted(self, score: Floats, columns: Mapping[str, Column]) -> Floats:
        """[rows] raw scores x → [rows] boosted scores z; −inf for what is left out."""
        raise NotImplementedError

    def plans(self) -> Plans:
        """A plan for each boost, with no weight and no bias yet."""
        return Plans.model_validate({"plans": [{"id": name, "when": when} for name, when in self.boosts]})


class Multiplier(Config):
    """z ← z · boost + bias, for the candidates that it is for."""

    id: Identifier
    when: When = "true"
    boost: float = Field(1.0, gt=0)
    bias: float = 0.0


class Multipliers(Config, Legacy):
    """A table of multipliers, applied in its order."""

    multipliers: tuple[Multiplier, ...]

    @model_validator(mode="after")
    def _distinct(self) -> Multipliers:
        ids = [one.id for one in self.multipliers]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"the multiplier {twice[0]!r} is there twice")
        return self

    @property
    def boosts(self) -> Sequence[tuple[str, str]]:
        """(id, targeting expression) of each."""
        return [(one.id, one.when) for one in self.multipliers]

    def boosted(self, score: Floats, columns: Mapping[str, Column]) -> Floats:
        """[rows] raw scores x → [rows] boosted scores z."""
        z = score
        for one in self.multipliers:
            hit = evaluate(parse(one.when), columns, len(score))
            z = np.where(hit, z * one.boost + one.bias, z)
        return z


@dataclass(frozen=True)
class FunctionScore(Legacy):
    """A `function_score` query of constant weights.

    Attributes:
        functions: (id, targeting expression, weight).
        score_mode: operation that makes one factor of the weights of all functions that match.
        boost_mode: operation on that factor and the query's score.
        max_boost: upper bound of the factor.
        min_score: score below which a document is left out.
    """

    functions: tuple[tuple[str, str, float], ...]
    score_mode: ScoreMode = "multiply"
    boost_mode: BoostMode = "multiply"
    max_boost: float = np.inf
    min_score: float = -np.inf

    @property
    def boosts(self) -> Sequence[tuple[str, str]]:
        """(id, targeting expression) of each."""
        return [(name, when) for name, when, _ in self.functions]

    def boosted(self, score: Floats, columns: Mapping[str, Column]) -> Floats:
        """[rows] raw scores x → [rows] boosted scores z; −inf for what `min_score` leaves out."""
        rows = len(score)
        hits = [evaluate(parse(when), columns, rows) for _, when, _ in self.functions]
        weights = [weight for _, _, weight in self.functions]
        factor = np.minimum(self._factor(hits, weights, rows), self.max_boost)
        modes: dict[BoostMode, Callable[[Floats, Floats], Floats]] = {
            "multiply": np.multiply,
            "replace": lambda _, factor: factor,
            "sum": np.add,
            "avg": lambda score, factor: (score + factor) / 2,
            "max": np.maximum,
            "min": np.minimum,
        }
        z = modes[self.boost_mode](score, factor)
        return np.where(z < self.min_score, -np.inf, z)

    def _factor(self, hits: Sequence[NDArray[np.bool_]], weights: Sequence[float], rows: int) -> Floats:
        """One where nothing matches, as in Elasticsearch."""
        if not hits or self.score_mode == "avg":
            return np.ones(rows)  # constants weigh their average themselves, so that it is one
        table, values = np.stack(hits, axis=1), np.array(weights)
        if self.score_mode == "first":
            result = values[table.argmax(axis=1)]
        else:
            operation, nothing = _OPERATIONS[self.score_mode]
            result = operation.reduce(np.where(table, values, nothing), axis=1)
        return np.where(table.any(axis=1), result, 1.0)


_OPERATIONS: dict[str, tuple[np.ufunc, float]] = {
    "multiply": (np.multiply, 1.0),
    "sum": (np.add, 0.0),
    "max": (np.maximum, -np.inf),
    "min": (np.minimum, np.inf),
}
"""Operations of score modes, and what they take for a function that does not match."""


def read_legacy(path: Path) -> Legacy:
    """A `.yaml` table of multipliers, or a `.json` file with a `function_score` query.

    Raises:
        ConfigError: a table that is not valid, or another kind of file.
        DataError: a query that cannot be read, or with a function or filter that is not a constant boost.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return load_config(Multipliers, file=path)
    if path.suffix.lower() != ".json":
        raise ConfigError(
            f"boosts of kind {path.suffix or 'without a suffix'!r} are not known",
            where=str(path),
            mend="give a .yaml table of multipliers or a .json function_score query",
        )
    value = read_json(path)
    try:
        result = function_score(value)
        result.plans()
    except DataError as error:
        raise DataError(error.what, where=f"{path}, {error.where}", mend=error.mend) from None
    except ValidationError as error:
        raise DataError(f"boosts that make no plans ({error.errors()[0]['msg']})", where=str(path)) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"a function_score that cannot be read ({error!r})", where=str(path)) from None
    return result


# -- Elasticsearch ----------------------------------------------------------------------------------------------------


def function_score(value: Any) -> FunctionScore:
    """The `function_score` of a query, wherever in its `query` it stands.

    Raises:
        DataError: there is none, or it holds what is no constant boost.
    """
    query = value
    for name in ("query", "function_score"):
        if isinstance(query, Mapping) and name in query and "functions" not in query:
            query = query[name]
    if not isinstance(query, Mapping) or not (query.keys() & {"functions", "weight"}):
        raise DataError("no function_score with functions", where="query")
    modes: dict[str, Any] = {}
    for name, known in (("score_mode", get_args(ScoreMode)), ("boost_mode", get_args(BoostMode))):
        mode = query.get(name, "multiply")
        if mode not in known:
            raise DataError(f"{mode!r} is none of {', '.join(known)}", where=name)
        modes[name] = mode
    entries = query.get("functions", [{"weight": query.get("weight")}])
    functions = []
    for number, entry in enumerate(entries):
        where = f"functions[{number}]"
        odd = set(entry) - {"filter", "weight", "_name"} if isinstance(entry, Mapping) else {"its kind"}
        if odd:
            raise DataError(
                f"{', '.join(sorted(odd))} is no constant boost",
                where=where,
                mend="a plan's boost is a constant: move what varies with the document into its score",
            )
        weight = entry.get("weight")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < np.inf:
            raise DataError(
                f"a weight of {weight!r}",
                where=where,
                mend="give a number above 0; with 0 no order is left: leave such documents out by a filter",
            )
        name = str(entry.get("_name", f"function-{number + 1}")).lower().replace(" ", "-")
        functions.append((name, _condition(entry.get("filter", {"match_all": {}}), where), float(weight)))
    limits: dict[str, Any] = {}
    for name in ("max_boost", "min_score"):
        if query.get(name) is not None:
            limits[name] = _number(query[name], name)
    if limits.get("max_boost", 1.0) <= 0:
        raise DataError("no boost can be above 0", where="max_boost", mend="give a number above 0")
    return FunctionScore(tuple(functions), **modes, **limits)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataError(f"{str(value)[:40]!r} is no number", where=where)
    return float(value)


def _condition(query: Any, where: str) -> str:
    """A filter as a targeting expression."""
    if not isinstance(query, Mapping) or len(query) != 1:
        raise DataError("a filter that is not one query", where=where)
    ((kind, body),) = query.items()
    if kind == "match_all":
        return "true"
    if kind in ("term", "match"):
        field, value = _only(body, where)
        if isinstance(value, Mapping):
            value = value.get("value", value.get("query"))
        return f"{field} == {_literal(value, where)}"
    if kind == "terms":
        field, values = _only({k: v for k, v in body.items() if k != "boost"}, where)
        return f"{field} in [{', '.join(_literal(value, where) for value in values)}]"
    if kind == "range":
        field, bounds = _only(body, where)
        signs = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
        if not bounds or set(bounds) - set(signs):
            raise DataError(f"a range of {', '.join(sorted(bounds)) or 'nothing'}", where=where)
        return " and ".join(
            f"{field} {signs[name]} {_literal(bound, where)}" for name, bound in bounds.items()
        )
    if kind == "exists":
        return f"{_name(body['field'], where)} is not missing"
    if kind == "bool":
        return _bool(body, where)
    raise DataError(f"the filter {kind!r} has no targeting expression", where=where)


def _bool(body: Mapping[str, Any], where: str) -> str:
    def all_of(name: str) -> list[str]:
        result = body.get(name, [])
        return [f"({_condition(one, where)})" for one in (result if isinstance(result, list) else [result])]

    odd = set(body) - {"must", "filter", "should", "must_not", "minimum_should_match"}
    if odd or body.get("minimum_should_match", 1) not in (0, 1):
        raise DataError(
            f"a bool with {', '.join(sorted(odd)) or 'minimum_should_match above 1'}", where=where
        )
    parts = [*all_of("must"), *all_of("filter"), *(f"not {one}" for one in all_of("must_not"))]
    either = all_of("should")
    if either and body.get("minimum_should_match", 0 if all_of("must") or all_of("filter") else 1):
        parts.append(f"({' or '.join(either)})")
    return " and ".join(parts) or "true"


def _only(body: Any, where: str) -> tuple[str, Any]:
    if not isinstance(body, Mapping) or len(body) != 1:
        raise DataError("a query on more or less than one field", where=where)
    ((field, value),) = body.items()
    return _name(field, where), value


def _name(field: Any, where: str) -> str:
    name = str(field).removesuffix(".keyword")
    try:
        parse(f"{name} is missing")
    except ConfigError:
        raise DataError(f"the field {field!r} is no column's name", where=where) from None
    return name


def _literal(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) and '"' not in value and "\n" not in value:
        return f'"{value}"'
    raise DataError(f"the value {value!r} cannot be compared with", where=where)
