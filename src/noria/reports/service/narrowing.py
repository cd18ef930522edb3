"""Settings that a request over HTTP may name: each only narrows the operator's setting of the same name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from noria.core.config import load_config
from noria.core.errors import DataError
from noria.reports.jobs.options import ReportOptions
from noria.reports.search.protocol import SourceRules, is_under

C = TypeVar("C", bound=ReportOptions)
Rule = Callable[[str, Any, Any], Any]
"""From a field's name, the operator's value and the request's value to the value that counts."""


def _at_most(name: str, ours: Any, asked: Any) -> Any:
    if ours is not None and asked > ours:
        raise DataError(
            f"{asked:,.10g} is more than this server allows", where=name, mend=f"at most {ours:,.10g}"
        )
    return asked


def _only_off(name: str, ours: Any, asked: Any) -> Any:
    if asked and not ours:
        raise DataError("switched off on this server", where=name, mend="leave it out")
    return asked


def _same(name: str, ours: Any, asked: Any) -> Any:
    if ours and asked != ours:
        raise DataError(f"this server writes {ours!r} alone", where=name, mend="leave it out")
    return asked


def _later(name: str, ours: str, asked: str) -> str:
    if ours and _day(asked, "-01-01") < _day(ours, "-01-01"):
        raise DataError(f"{asked or 'no date'} is before this server's", where=name, mend=f"from {ours} on")
    return asked


def _earlier(name: str, ours: str, asked: str) -> str:
    if ours and (not asked or _day(asked, "-12-31") > _day(ours, "-12-31")):
        raise DataError(f"{asked or 'no date'} is after this server's", where=name, mend=f"up to {ours}")
    return asked


def _day(date: str, rest: str) -> str:
    """First or last day of a year, a month or a day."""
    return date + rest[len(date) - 4 :] if date else ""


def _among(name: str, ours: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    for one in asked:
        if ours and not any(is_under(one, rule) or is_under(f"https://{one}", rule) for rule in ours):
            raise DataError(f"{one!r} is no source of this server", where=name, mend=f"of {', '.join(ours)}")
    return asked or ours


def _added(name: str, ours: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    return (*ours, *asked)


RULES: dict[str, Rule] = {
    "seconds": _at_most,
    "budget": _at_most,
    "tokens": _at_most,
    "pages": _at_most,
    "rounds": _at_most,
    "charts": _only_off,
    "images": _only_off,
    "language": _same,
    "research_language": _same,
    "only": _among,
    "never": _added,
    "since": _later,
    "until": _earlier,
    "stale_before": _later,
}
"""Fields of a request beside its own, which are settings of the server under the same names, types and bounds."""
MOST_RULES = 100
"""Most domains or path prefixes of a field."""


def check_fields(body: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a field that is none, by its name.

    Raises:
        DataError: it is not known.
    """
    for name in sorted(body.keys() - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(known)}"
        raise DataError(f"no field {name[:60]!r}", where="body", mend=mend)


def narrowed(config: C, asked: Mapping[str, Any]) -> C:
    """Settings of one report: the operator's, narrowed by those that a request names.

    The operator's own pages are left out where the request's `only` or `never` does not let them pass.

    Raises:
        ConfigError: a value is of another type, or out of the setting's bounds.
        DataError: a field that is no setting to be narrowed, a value that would widen what the operator allows, or a
            limit of a model where none writes.
    """
    check_fields(asked, tuple(RULES))
    for name, value in asked.items():
        if isinstance(value, bool) and name not in ("charts", "images"):
            raise DataError(f"{value} is no value of it", where=name)
        if value is None or (isinstance(value, list) and len(value) > MOST_RULES):
            what = "no value" if value is None else f"more than {MOST_RULES} entries"
            raise DataError(what, where=name, mend="leave it out" if value is None else "give fewer")
    if not config.url and (limits := sorted(asked.keys() & {"budget", "tokens"})):
        raise DataError("no model writes on this server", where=limits[0], mend="leave it out")
    ours = config.model_dump()
    # Types and bounds are those of the settings; what a value may be beside the operator's is the rule's.
    values = load_config(type(config), base=ours, options={n: ("body", v) for n, v in asked.items()})
    kept = {name: RULES[name](name, getattr(config, name), getattr(values, name)) for name in asked}
    if asked.keys() & {"only", "never"}:
        rules = SourceRules(only=kept.get("only", ()), never=kept.get("never", ()))
        kept["address"] = tuple(url for url in config.address if rules.allows(url))
    return config.model_copy(update=kept)
