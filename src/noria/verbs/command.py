"""The bridge from a Config to a command: each field is an option or an argument, a `key=value`, a line of a file.

```python
class TraceConfig(ModelOptions, OutputOption):
    data: Annotated[str, Argument("DATA")] = Field(description="Questions: a .jsonl or .parquet file.")
    number: Annotated[int, Option("-n")] = Field(3, ge=1, description="Number of responses to trace.")

@command(TraceConfig, extra="credit")
def trace(config: TraceConfig) -> None:
    \"\"\"Trace responses and write a page.\"\"\"
```

gives `noria credit trace DATA [--number INTEGER] [--config FILE] [KEY=VALUE]...`. Options beat `KEY=VALUE`, which beats
the file. All of them are checked by the Config, so an error reads the same wherever the value came from.
"""

from __future__ import annotations

import contextlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from pydantic.fields import FieldInfo

from noria.core.config import Argument, Config, Option, load_config, parse_value
from noria.core.errors import ConfigError, needing, require
from noria.core.records import has_surrogate
from noria.verbs.tables import plain_warnings

C = TypeVar("C", bound=Config)
_SETTING = re.compile(r"([A-Za-z_]\w*)((?:\.[\w-]+)*)=")
_BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"))
HELP = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}


def command(
    config: type[C], *, extra: str | None = None, needs: Sequence[str] = ()
) -> Callable[[Callable[[C], int | None]], click.Command]:
    """Make a command of a function that takes one Config.

    Args:
        config: class that declares the options, in the order of its fields.
        extra: extra that brings the packages of the verb.
        needs: packages of that extra that are checked before the verb runs.
    """

    def decorate(function: Callable[[C], int | None]) -> click.Command:
        return ConfigCommand(config, function, extra=extra, needs=needs)

    return decorate


class ConfigCommand(click.Command):
    """A click command whose parameters are the fields of a Config."""

    def __init__(
        self,
        config: type[C],
        function: Callable[[C], int | None],
        *,
        extra: str | None = None,
        needs: Sequence[str] = (),
    ) -> None:
        self.config, self.function, self.extra, self.needs = config, function, extra, needs
        fields = {name: (field, _marker(field)) for name, field in config.model_fields.items()}
        self.arguments = {n: (f, m) for n, (f, m) in fields.items() if isinstance(m, Argument)}
        self.options = {n: (f, m) for n, (f, m) in fields.items() if not isinstance(m, Argument)}
        params: list[click.Parameter] = [click.Argument(["words"], nargs=-1, metavar=self._usage())]
        for name, (field, marker) in self.options.items():
            params += _options(name, field, marker)
        # A field may itself be called `config`; the file of settings is not one of the fields.
        params.append(
            click.Option(
                ["--config", "settings_file"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="YAML file of these settings.",
            )
        )
        super().__init__(
            name=function.__name__,
            callback=None,
            params=params,
            help=function.__doc__,
            context_settings=HELP,
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Fill the Config from the command line and call the function."""
        params = dict(ctx.params)
        words, file = params.pop("words", ()), params.pop("settings_file", None)
        positional, overrides = self._split_words(words)
        options = {}
        for name, value in params.items():
            if value is None or value == ():
                continue
            field_name, _, old = name.partition("__was_")
            field, marker = self.options[field_name]
            spelling = _long(field_name, marker)
            if old:
                click.echo(f"noria: warning: --{old.replace('_', '-')} is now {spelling}", err=True)
            options[field_name] = (spelling, _value(field, value, spelling))
        try:
            config = load_config(self.config, file=file, overrides=overrides, options=positional | options)
        except ConfigError as error:
            raise self._with_spelling(error) from None
        for package in self.needs:
            require(package, str(self.extra))
        with needing(self.extra) if self.extra else contextlib.nullcontext():
            return self.function(config)

    def _with_spelling(self, error: ConfigError) -> ConfigError:
        """Name a missing field as the command line spells it."""
        name = error.what.partition(" is missing")[0]
        if error.mend is not None or name == error.what or name not in self.config.model_fields:
            return error
        argument = self.arguments.get(name)
        spelling = _metavar(name, *argument) if argument else _long(name, self.options[name][1])
        return ConfigError(
            f"{spelling} is missing", mend=f"see {click.get_current_context().command_path} --help"
        )

    def _split_words(self, words: Sequence[str]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
        """Split the words of the command line into positional values by field, and `KEY=VALUE` settings."""
        overrides = [w for w in words if (m := _SETTING.match(w)) and m[1] in self.config.model_fields]
        values = [w for w in words if w not in overrides]
        positional: dict[str, tuple[str, Any]] = {}
        for name, (field, marker) in self.arguments.items():
            metavar = _metavar(name, field, marker)
            if _is_list(field):
                positional |= {name: (metavar, values)} if values else {}
                values = []
            elif values:
                positional[name] = (metavar, _value(field, values.pop(0), metavar))
        if values:
            if _SETTING.match(values[0]):  # a misspelt setting: the Config's error names the closest field
                return positional, [*overrides, values[0]]
            raise click.UsageError(f"Got unexpected extra argument ({values[0]})")
        overridden = {m[1] for w in overrides if (m := _SETTING.match(w))}
        return {n: v for n, v in positional.items() if n not in overridden}, overrides

    def _usage(self) -> str:
        words = []
        for name, (field, marker) in self.arguments.items():
            word = _metavar(name, field, marker)
            word = f"{word}..." if _is_list(field) else word
            words.append(word if field.is_required() else f"[{word}]")
        return " ".join([*words, "[KEY=VALUE]..."])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options, each under the `section` of the class that declares it."""
        if self.arguments:
            rows = [(_metavar(n, f, m), f.description or "") for n, (f, m) in self.arguments.items()]
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                home = _home(self.config, param.name or "")
                groups.setdefault(vars(home).get("section", "Options"), []).append(record)
        for title, rows in groups.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class VerbGroup(click.Group):
    """Verbs of a package, each in a module of its own that is imported when the verb is named."""

    def __init__(self, package: str, verbs: Mapping[str, str], was: Mapping[str, str], text: str) -> None:
        super().__init__(
            name=package.split(".")[1], help=text, context_settings=HELP, callback=plain_warnings
        )
        self.package, self.verbs, self.was = package, dict(verbs), dict(was)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in the order in which a user needs them."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and take its command."""
        name = self.was.get(cmd_name, cmd_name)
        if name not in self.verbs:
            return None
        if name != cmd_name:
            click.echo(f"noria: warning: {cmd_name} is now {name}", err=True)
        verb = import_module(f"{self.package}.{name.replace('-', '_')}").command
        assert isinstance(verb, click.Command)
        verb.name = name
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))


def verbs(
    package: str, text: str, table: Mapping[str, str], *, was: Mapping[str, str] | None = None
) -> VerbGroup:
    """Make the group of a system's verbs.

    Args:
        package: dotted name of the package whose modules hold a `command` each.
        text: help text of the group.
        table: one line of help for each verb, in the order in which a user needs them; the module of `mask-test` is
            `mask_test`.
        was: new names of verbs by their earlier ones, which still work and warn.
    """
    return VerbGroup(package, table, was or {}, text)


# -- from a field to an option ----------------------------------------------------------------------------------------


def _marker(field: FieldInfo) -> Option | Argument:
    return next((m for m in field.metadata if isinstance(m, Option | Argument)), Option())


def _long(name: str, marker: Option | Argument) -> str:
    own = [n for n in getattr(marker, "names", ()) if n.startswith("--")]
    return own[0] if own else f"--{name.replace('_', '-')}"


def _options(name: str, field: FieldInfo, marker: Option | Argument) -> Iterator[click.Option]:
    assert isinstance(marker, Option)
    long = _long(name, marker)
    more: dict[str, Any] = {"default": None, "help": _help(field)}
    kind = _plain(field.annotation)
    if kind is bool:
        spelling = long if field.default is False else f"{long}/--no-{long[2:]}"
        more |= {"is_flag": True}
    else:
        spelling = long
        more |= {"metavar": _metavar(name, field, marker), "multiple": _is_list(field)}
    short = [n for n in marker.names if not n.startswith("--")]
    yield click.Option([*short, spelling, name], **more)
    for old in marker.was:
        hidden = {**more, "hidden": True}
        yield click.Option([old, f"{name}__was_{old.lstrip('-').replace('-', '_')}"], **hidden)


def _help(field: FieldInfo) -> str:
    """The field's description, with its bounds and default."""
    notes = []
    for bound, words in _BOUNDS:
        values = [getattr(m, bound) for m in field.metadata if getattr(m, bound, None) is not None]
        notes += [words.format(value) for value in values]
    default = field.get_default(call_default_factory=False) if field.default_factory is None else None
    if field.is_required():
        notes.append("required")
    elif default not in (None, "", (), []) and default is not False:
        text = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
        notes.append(f"default: {'on' if text is True else text}")
    return (field.description or "") + (f"  [{'; '.join(notes)}]" if notes else "")


def _metavar(name: str, field: FieldInfo, marker: Option | Argument) -> str:
    if marker.metavar is not None:
        return marker.metavar
    if isinstance(marker, Argument):
        return name.upper().removesuffix("S") if _is_list(field) else name.upper()
    kind = _plain(field.annotation)
    if typing.get_origin(kind) is Literal:
        return f"[{'|'.join(map(str, typing.get_args(kind)))}]"
    if _is_list(field):
        return "LIST"
    names = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}
    return names.get(kind, "YAML")


def _plain(annotation: Any) -> Any:
    """Remove `| None` from an annotation."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) == 1:
            return _plain(members[0])
    return annotation


def _is_list(field: FieldInfo) -> bool:
    """Whether a field is a list of any length; its option may be repeated, or take values apart by commas."""
    kind = _plain(field.annotation)
    origin = typing.get_origin(kind)
    return origin is list or (origin is tuple and typing.get_args(kind)[-1:] == (...,))


def _value(field: FieldInfo, value: Any, spelling: str) -> Any:
    """Turn the text of an option into the value that the Config checks."""
    kind = _plain(field.annotation)
    if isinstance(value, bool):
        return value
    if kind is not Path and any(
        has_surrogate(text) for text in ([value] if isinstance(value, str) else value)
    ):
        raise ConfigError("not text: bytes that are not UTF-8", where=spelling, mend="give it in UTF-8")
    if _is_list(field):
        member = _plain(typing.get_args(kind)[0])
        if member is Path or not getattr(_marker(field), "split", True):  # these may hold a comma
            return list(value)
        texts = [part.strip() for text in value for part in text.split(",") if part.strip()]
        return texts if _is_text(member) else [parse_value(text, spelling) for text in texts]
    return value if _is_text(kind) else parse_value(value, spelling)


def _is_text(kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(kind))
    return kind in (str, Path)


def _home(config: type[Config], name: str) -> type[Any]:
    """The topmost base class that declares a field; its `section` is the title in the help."""
    homes = [c for c in config.__mro__ if name in getattr(c, "__annotations__", {})]
    return homes[-1] if homes else config
