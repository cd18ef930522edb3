"""A field is declared once and is a file's line, a `key=value`, an option and an argument of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from click.testing import CliRunner, Result
from pydantic import Field

from noria.core.config import Argument, Config, Option
from noria.core.errors import ConfigError, MissingExtra
from noria.verbs.command import ConfigCommand, command
from noria.verbs.options import OutputOption, QuietOption, ServerOptions


class Inner(Config):
    rate: float = Field(0.1, gt=0)


class Settings(OutputOption, QuietOption):
    """Settings of a verb made for these tests."""

    model: Annotated[str, Argument()] = Field(description="Model to use.")
    number: Annotated[int, Option("-n", was=("--count",))] = Field(3, ge=1, description="Number of rows.")
    kind: Literal["hide", "delete"] = Field("hide", description="Kind of masking.")
    names: list[str] = Field(["a", "b"], description="Names to compare.")
    sigmas: list[float] | None = Field(None, description="Levels of noise.")
    texts: Annotated[list[str], Option("-t", split=False)] = Field([], description="Texts to continue.")
    ends: list[Literal["top", "bottom"]] = Field(["top"], description="Ends to mask.")
    layers: str | int | list[int] = Field("mid", description="Layers to read.")
    cached: bool = Field(True, description="Keep answers.")
    inner: Inner = Field(Inner(), description="Settings within settings.")
    data: Path | None = Field(None, description="Folder of the data.")


calls: list[Settings] = []


@command(Settings)
def made(config: Settings) -> None:
    """Do something with a model."""
    calls.append(config)


def call(*words: str) -> Settings:
    calls.clear()
    result = CliRunner().invoke(made, words, standalone_mode=False, catch_exceptions=False)
    if result.exception:
        raise result.exception
    return calls[0]


def help_of(verb: ConfigCommand) -> Result:
    return CliRunner().invoke(verb, ["--help"], terminal_width=100)


def test_every_way_of_giving_a_value_gives_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("model: m\nnumber: 5\nkind: delete\nnames: [x]\nsigmas: [1, 0.5]\ncached: false\n")
    python = Settings(model="m", number=5, kind="delete", names=["x"], sigmas=[1, 0.5], cached=False)
    words = ["number=5", "kind=delete", "names=[x]", "sigmas=[1, 0.5]", "cached=false"]
    options = ["-n", "5", "--kind", "delete", "--names", "x", "--sigmas", "1,0.5", "--no-cached"]
    assert call("--config", str(file)) == call("m", *words) == call("m", *options) == python


def test_options_beat_settings_and_settings_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("number: 5\ninner: {rate: 0.2}\nkind: delete\n")
    config = call("m", "--config", str(file), "number=6", "--number", "7", "inner.rate=0.3")
    assert (config.number, config.inner.rate, config.kind) == (7, 0.3, "delete")


def test_only_what_was_given_counts_as_set() -> None:
    assert call("m", "-n", "3").model_fields_set == {"model", "number"}


@pytest.mark.parametrize(
    ("text", "value"), [("15-25", "15-25"), ("all", "all"), ("3", 3), ("[1, 2]", [1, 2])]
)
def test_a_value_of_several_types_is_read_as_yaml(text: str, value: object) -> None:
    assert call("m", "--layers", text).layers == value == call("m", f"layers={text}").layers


def test_text_stays_text() -> None:
    assert call("007").model == "007"
    assert call("m", "--names", "1,no").names == ["1", "no"]
    assert call("m", "-t", "a, b", "-t", " c").texts == ["a, b", " c"]
    assert call("m", "--ends", "top,bottom").ends == ["top", "bottom"]
    assert call("m", "--data", "12").data == Path("12")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("m", "-n", "0"), "--number: input should be greater than or equal to 1, got 0"),
        (("m", "-n", "many"), "--number: "),
        (("m", "number=0"), "override 'number=0': number: input should be greater than or equal to 1"),
        (("m", "--kind", "delte"), "did you mean 'delete'?"),
        (("m", "nmber=3"), "unknown field 'nmber'; did you mean 'number'?"),
        ((), "MODEL is missing"),
        (("m", "--sigmas", "1,{"), "--sigmas: not YAML"),
        (("m", "inner.rate=0"), "inner.rate"),
        (("m", "--config", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_an_error_names_what_the_user_wrote(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(*words)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_earlier_name_still_works_and_warns() -> None:
    result = CliRunner().invoke(made, ["m", "--count", "9", "--out", "here"], standalone_mode=False)
    assert calls[-1].number == 9
    assert calls[-1].output == "here"
    assert "--count is now --number" in result.output
    assert "--out is now --output" in result.output
    assert "--count" not in help_of(made).output


def test_help_tells_bounds_defaults_and_groups() -> None:
    text = " ".join(help_of(made).output.split())
    assert "Do something with a model." in text
    assert "MODEL Model to use." in text
    assert "-n, --number INTEGER Number of rows. [≥ 1; default: 3]" in text
    assert "--kind [hide|delete] Kind of masking. [default: hide]" in text
    assert "--cached / --no-cached Keep answers. [default: on]" in text
    assert "Output: -q, --quiet" in text


def test_an_extra_that_is_missing_is_one_line() -> None:
    @command(Settings, extra="credit", needs=("absent_package",))
    def needy(config: Settings) -> None:
        """Need what is not there."""

    with pytest.raises(MissingExtra, match="absent_package"):
        CliRunner().invoke(needy, ["m"], standalone_mode=False, catch_exceptions=False)


def test_a_part_of_the_settings_is_what_it_was() -> None:
    config = call("m", "--output", "x", "-q")
    part = config.part(OutputOption)
    assert type(part) is OutputOption
    assert part.output == "x"
    assert part.model_fields_set == {"output"}


def test_a_chat_server_comes_from_its_options() -> None:
    options = ServerOptions(url="http://127.0.0.1:1/v1", model="m", prices="0.5,2", in_flight=3)  # type: ignore[arg-type]
    server = options.server()
    assert (server.prices.input, server.prices.output, server.in_flight, server.key_env) == (0.5, 2, 3, None)
    with pytest.raises(ConfigError, match="give both"):
        ServerOptions(model="m").server()
