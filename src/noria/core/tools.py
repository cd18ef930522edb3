"""Tools of a model: what they take, what they may do, and calls that are bounded in time, size and money.

What a tool returns is data, and so is what a picture says. While a conversation holds text from outside, a tool that
writes is refused, and one that only spends where such text came after the words of the user; unless the pipeline, not
the text, allowed just this call since then.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from noria.core.errors import ConfigError, DataError, NoriaError, caller_line
from noria.core.judging import quoted
from noria.core.records import json_value

ToolErrorKind = Literal["unknown", "arguments", "not_allowed", "budget", "timeout", "too_large", "failed"]
"""
unknown      there is no such tool
arguments    the arguments do not follow the tool's schema
not_allowed  text from outside bars the tool, which writes or spends, and nothing allowed this call since
budget       the call could exceed what the conversation may spend
timeout      no result in the tool's time
too_large    the result is larger than the tool's limit
failed       the tool failed
"""
LARGEST_ARGUMENTS = 200_000
"""Most bytes of the arguments of a call."""
log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class ToolSpec:
    """Description of a tool.

    Attributes:
        name: name by which a model calls it.
        description: description of the tool, for the model.
        parameters: JSON schema of its arguments, an object. It is the author's: `$ref` beyond the schema is refused.
        writes: whether it changes something.
        spends: whether it costs money or a scarce resource.
        trusted: whether its results are this program's own words or numbers, and hold no text from outside.
        most_cost: most that a call may cost, reserved before it; None where that is not known.
        seconds: longest time of a call; a tool that computes without awaiting cannot be stopped.
        largest_text: most characters of a result's text.
        largest_blobs: most bytes of a result's files together.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    writes: bool = False
    spends: bool = False
    trusted: bool = False
    most_cost: float | None = None
    seconds: float = 30.0
    largest_text: int = 40_000
    largest_blobs: int = 32 * 2**20

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 64 or not all(c.isalnum() or c in "_-" for c in self.name):
            raise ConfigError(
                f"{self.name!r} is no name of a tool", where="tool", mend="use a-z, 0-9, _ and -"
            )
        if self.parameters.get("type") != "object":
            raise ConfigError("the arguments of a tool are an object", where=f"tool {self.name}")

    def wire(self) -> dict[str, Any]:
        """The tool as chat completions name it in `tools`."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolResult:
    """Result of a call of a tool.

    Attributes:
        text: text of the result, or of the error, in our own words.
        blobs: files by their name; those whose name begins with `picture` are images of the answer, too.
        cost: what the call cost; None where it is not known.
        error: kind of the error; None for a result.
        trusted: whether the text holds nothing from outside.
        shown: what the user is shown beside the words, each a JSON object with a `kind`, such as cards of products; a
            value `file:NAME` in it stands for the file of that name. A model does not read it.
        notes: how it came about, as texts for the trace. Neither a model nor a user reads them.
    """

    text: str
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    cost: float | None = 0.0
    error: ToolErrorKind | None = None
    trusted: bool = False
    shown: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def fenced(self) -> str:
        """The text for a model: between markers that it cannot forge, unless it is our own."""
        return self.text if self.trusted else quoted(self.text)


def unwatched(share: float) -> None:
    """Hear how far a call is, where nobody watches it."""


@dataclass(frozen=True)
class ToolContext:
    """For whom a tool is called.

    Attributes:
        trace: id of the trace.
        caller: name of the caller.
        user: key of the user.
        call: id of the call: the same one again is the same call.
        progress: hears the share of the call that is done, from 0 to 1, of a tool that knows it.
    """

    trace: str = ""
    caller: str = ""
    user: str | None = None
    call: str = ""
    progress: Callable[[float], None] = unwatched


class Tool(Protocol):
    """A tool. It may raise; the toolbox makes a result of that."""

    spec: ToolSpec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what the tool does, with arguments that follow its schema."""
        ...


class Call(Protocol):
    """A call that a model asks for, as a chat completion has it."""

    @property
    def id(self) -> str:
        """Id of the call."""

    @property
    def name(self) -> str:
        """Name of the tool."""

    @property
    def arguments(self) -> str:
        """Arguments as the model wrote them: JSON, if it kept to the protocol."""


class Toolbox:
    """The tools of a pipeline. It holds no state of a conversation; :meth:`session` makes what does.

    Raises:
        ConfigError: two tools have one name, or a schema is none.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self.tools: dict[str, Tool] = {}
        self._checks: dict[str, Any] = {}
        for tool in tools:
            spec = tool.spec
            if spec.name in self.tools:
                raise ConfigError("two tools of one name", where=f"tool {spec.name}")
            self.tools[spec.name] = tool
            self._checks[spec.name] = _validator(spec)

    def wire(self, names: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Tools as chat completions name them, all or those of these names."""
        return [tool.spec.wire() for name, tool in self.tools.items() if names is None or name in names]

    def session(
        self,
        context: ToolContext,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        outside: bool = False,
        budget: float | None = None,
    ) -> ToolSession:
        """The calls of one conversation.

        Args:
            context: for whom the tools are called.
            messages: the conversation so far, as chat completions have it; a picture or a tool's result in it is text
                from outside.
            outside: whether text from outside entered before in a way that the messages do not show, such as a
                search that an answer repeats.
            budget: most that the calls may cost; any by default.
        """
        asked = max((number for number, one in enumerate(messages) if _has_words(one)), default=-1)
        since = any(_is_outside(one) for one in messages[asked + 1 :])
        before = outside or since or any(_is_outside(one) for one in messages[: asked + 1])
        return ToolSession(self, context, budget, before=before, since=since)

    def arguments(self, call: Call) -> dict[str, Any]:
        """The arguments of a call, checked against the tool's schema.

        Raises:
            DataError: they are no JSON object, too large, or do not follow the schema.
        """
        if len(call.arguments) > LARGEST_ARGUMENTS:
            raise DataError(f"more than {LARGEST_ARGUMENTS:,} characters of arguments", where=call.name[:64])
        values = json_value(call.arguments or "{}", f"arguments of {call.name}")
        if not isinstance(values, dict):
            raise DataError("the arguments are no JSON object", where=call.name)
        error = next(iter(self._checks[call.name].iter_errors(values)), None)
        if error is not None:
            place = ".".join(str(step) for step in error.absolute_path)
            raise DataError(str(error.message)[:300], where=f"{call.name}.{place}" if place else call.name)
        return values


class ToolSession:
    """Calls of one conversation; made by :meth:`Toolbox.session`.

    Attributes:
        outside: whether text from outside has entered.
        spent: what the calls cost so far.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        context: ToolContext,
        budget: float | None,
        *,
        before: bool = False,
        since: bool = False,
    ) -> None:
        self.toolbox, self.context, self.budget = toolbox, context, budget
        self.spent = 0.0
        self._before = before
        self._entered = int(since)  # number of texts from outside after the last words of the user
        self._allowed: dict[str, int] = {}
        self._aside = 0.0

    @property
    def outside(self) -> bool:
        """Whether text from outside has entered the conversation."""
        return self._before or self._entered > 0

    def enter(self) -> None:
        """Note that text from outside entered by another way than a tool."""
        self._entered += 1

    def allow(self, call: Call) -> None:
        """Allow one call, with just these arguments, once, and until more text from outside enters.

        It is the pipeline's decision (a rule, a person's click), never that of a text.
        """
        self._allowed[_call_key(call)] = self._entered

    async def call(self, call: Call) -> ToolResult:
        """Call a tool. Whatever goes wrong is a result with an error kind."""
        tool = self.toolbox.tools.get(call.name)
        if tool is None:
            return _refused("unknown", f"there is no tool {call.name[:64]!r}")
        spec = tool.spec
        try:
            arguments = self.toolbox.arguments(call)
        except DataError as error:
            return ToolResult(str(error), error="arguments")
        guarded = (spec.writes and self.outside) or (spec.spends and self._entered > 0)
        if guarded and self._allowed.pop(_call_key(call), None) != self._entered:
            why = "it writes or spends, and text from outside has entered: this call needs a decision"
            return _refused("not_allowed", f"{spec.name}: {why}")
        if not self._reserve(spec):
            return _refused("budget", f"{spec.name}: it could exceed the budget of tools")
        result: ToolResult | None = None
        try:
            result = await _bounded(tool, arguments, replace(self.context, call=call.id))
        finally:
            reserved = spec.most_cost or 0.0
            cost = None if result is None else result.cost
            self._aside = max(0.0, self._aside - reserved)
            self.spent += reserved if cost is None else cost
        if not result.trusted:
            self._entered += 1
        return result

    def _reserve(self, spec: ToolSpec) -> bool:
        if self.budget is None or not spec.spends:
            return True
        if spec.most_cost is None or self.spent + self._aside + spec.most_cost > self.budget + 1e-12:
            return False  # an unknown price could be any
        self._aside += spec.most_cost
        return True


async def _bounded(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
    """The result of a tool within its limits. What it cost counts, also where its result is too large."""
    spec = tool.spec
    try:
        async with asyncio.timeout(spec.seconds):
            result: Any = await tool.call(arguments, context)
    except TimeoutError:
        return _refused("timeout", f"{spec.name}: no result in {spec.seconds:g} s", None)
    except DataError as error:  # it may repeat what a file said
        return ToolResult(f"{spec.name}: {caller_line(error)}"[:400], cost=None, error="failed")
    except NoriaError as error:
        log.warning("the tool %s failed: %s", spec.name, error)
        return _refused("failed", f"{spec.name}: {caller_line(error)}"[:400], None)
    except Exception as error:  # its message may hold what is not for a model
        return _refused("failed", f"{spec.name} failed: {type(error).__name__}", None)
    if not isinstance(result, ToolResult):
        return _refused("failed", f"{spec.name} failed: it gave no result", None)
    known = isinstance(result.cost, int | float) and 0 <= result.cost < math.inf
    cost = result.cost if known else None
    size = sum(len(content) for content in result.blobs.values())
    shown = len(json.dumps(list(result.shown), default=dict)) if result.shown else 0
    if max(len(result.text), shown) > spec.largest_text or size > spec.largest_blobs:
        limits = f"{spec.largest_text:,} characters and {spec.largest_blobs:,} bytes of files are allowed"
        return _refused("too_large", f"{spec.name}: the result is too large; {limits}", cost)
    return replace(result, cost=cost, trusted=spec.trusted)


def _is_outside(message: Mapping[str, Any]) -> bool:
    """Whether a message brings text from outside: a tool's result, or a picture, which a model reads itself."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    known = message.get("role") in ("system", "developer", "user", "assistant")
    return not known or any(part.get("type") != "text" for part in parts)


def _has_words(message: Mapping[str, Any]) -> bool:
    """Whether a message holds words of the user."""
    content = message.get("content") or ""
    texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    return message.get("role") == "user" and any(text.strip() for text in texts)


def _refused(kind: ToolErrorKind, why: str, cost: float | None = 0.0) -> ToolResult:
    """An error in our own words."""
    return ToolResult(why, cost=cost, error=kind, trusted=True)


def _call_key(call: Call) -> str:
    """Digest of a call by its meaning: its name, and its arguments without the order of their fields."""
    try:
        arguments = json.dumps(json.loads(call.arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        arguments = call.arguments
    return hashlib.sha256(f"{call.name}\0{arguments}".encode("utf-8", "surrogatepass")).hexdigest()


def _validator(spec: ToolSpec) -> Any:
    return _validator_of(spec.name, json.dumps(dict(spec.parameters)))


@functools.lru_cache(512)  # a toolbox is made for each request, of the same few tools
def _validator_of(name: str, parameters: str) -> Any:
    import jsonschema
    import referencing.exceptions
    import referencing.jsonschema

    schema = json.loads(parameters)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        resource = referencing.jsonschema.DRAFT202012.create_resource(schema)
        resolver = referencing.Registry().with_resource("", resource).resolver()
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise ConfigError(f"a $ref beyond the schema: {reference[:60]}", where=f"tool {name}")
            resolver.lookup(reference)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"no JSON schema: {error.message}"[:300], where=f"tool {name}") from error
    except referencing.exceptions.Unresolvable as error:
        raise ConfigError("a $ref to nothing", where=f"tool {name}") from error
    # A registry of its own: the default one fetches what a `$ref` names from the network.
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry())


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _references(value)
