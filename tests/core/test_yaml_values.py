"""YAML in JSON's types: what is read, what is refused and where, and that nothing is built before it is counted."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from noria.core import yaml_values
from noria.core.config import Config, parse_config, parse_value
from noria.core.errors import ConfigError
from noria.core.yaml_values import parse_yaml, yaml_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=["libyaml", "python"], name="parser")
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "libyaml" and not yaml.__with_libyaml__:
        pytest.skip("no libyaml here")
    parser = yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(yaml_values, "_PARSER", parser)


@given(value=VALUES)
def test_json_is_yaml(value: Any) -> None:
    assert parse_yaml(json.dumps({"value": value}), "here").value == {"value": value}


@given(value=VALUES)
def test_what_is_written_comes_back(value: Any) -> None:
    assert parse_yaml(yaml_text({"value": value}), "here").value == {"value": value}


@pytest.mark.parametrize(
    "text", ["1e-5", "1e5", "2026-01-01", "on", "12:30", "0o17", "~", "null", "=", "<<", "1_000"]
)
def test_text_that_looks_like_another_type_comes_back_as_text(text: str) -> None:
    for reader in (lambda raw: parse_yaml(raw, "here").value, yaml.safe_load):
        assert reader(yaml_text({"name": text, text: 1})) == {"name": text, text: 1}


def test_json_s_types_and_no_others() -> None:
    text = "a: [1, -2.5, 1e3, true, null, ~, '1', 2026-01-01, 12:30, yes, 0x10, !!str 1, !!float 3, ! x]"
    assert parse_yaml(text, "here").value == {
        "a": [1, -2.5, 1000.0, True, None, None, "1", "2026-01-01", "12:30", "yes", "0x10", "1", 3.0, "x"]
    }
    assert parse_yaml("1: a\ntrue: b\nnull: c\n", "here").value == {"1": "a", "true": "b", "null": "c"}
    assert parse_yaml("", "here").value is None


def test_an_alias_is_what_it_names() -> None:
    document = parse_yaml("a: &x {b: [1, 2]}\nc: *x\n", "here")
    assert document.value == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert dict(document.lines())["c", "b", 1] == 1  # it stands where it was written


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: !!binary aGk=\n", r"here:2:4: the tag !!binary is not read: values are of JSON's types"),
        ("a: !!timestamp foo\n", r"here:1:4: the tag !!timestamp"),
        ("a: !!python/object/apply:os.system [x]\n", r"here:1:4: the tag !!python/object/apply:os\.system"),
        ("!!set {a}\n", r"here:1:1: the tag !!set"),
        ("a: !!omap [b: 1]\n", r"here:1:4: the tag !!omap"),
        ("a: !local x\n", r"here:1:4: the tag !local"),
        ("a: !!bool foo\n", r"here:1:4: 'foo' is no !!bool"),
        ("a: !!int ''\n", r"here:1:4: '' is no !!int"),
        ("a: !!float x\n", r"here:1:4: 'x' is no !!float"),
        ("a: !!null x\n", r"here:1:4: 'x' is no !!null"),
        ("a: 1\na: 2\n", r"here:2:1: 'a' is given twice"),
        ("{a: 1, 'a': 2}\n", r"here:1:8: 'a' is given twice"),
        ("a: &a [*a]\n", r"here:1:8: an alias that contains itself"),
        ("a: *b\n", r"here:1:4: no anchor &b"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", r"here:3:3: merge keys are not read; write the fields out"),
        ("a: &a {x: 1}\nb: {!!merge <<: *a}\n", r"here:2:5: the tag !!merge"),
        ("? [1]\n: 2\n", r"here:1:3: a list or a mapping as a key"),
        ("a: 1\n---\nb: 2\n", r"here:2:1: a second document"),
        ("a: \0\n", r"here:1:4: the character '\\x00' is not allowed"),
        ("a: 1\nb: \x07\n", r"here:2:4: the character '\\x07'"),
        ('a: "\\ud800"\n', r"here:1:\d+: "),
        ("a: [1\n", r"here:2:1: not YAML: "),
        ("a: b: c\n", r"here:1:5: not YAML: "),
        ("[" * 101 + "]" * 101, r"here:1:101: nested more than 100 deep"),
        ("[" * 500_000, r"here:1:101: nested more than 100 deep"),
        ("a: " + "9" * 301, r"here:1:4: a number of 301 characters"),
        ("a: " + "9" * 10_000, r"here:1:4: a number of 10,000 characters"),
    ],
)
def test_what_is_refused_has_its_line_and_column(text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as raised:
        parse_yaml(text, "here")
    assert "\n" not in str(raised.value)


def test_values_are_counted() -> None:
    with pytest.raises(ConfigError, match="here:1:200003: more than 100,000 values"):
        parse_yaml("a: [" + "1," * 100_001 + "]", "here")


def test_bytes_are_counted_and_must_be_utf_8() -> None:
    with pytest.raises(ConfigError, match="too long"):
        parse_yaml(b"#" * 1_000_001, "here")
    with pytest.raises(ConfigError, match=r"here:2:4: not UTF-8; save the file as UTF-8"):
        parse_yaml(b"a: 1\nb: \xff\n", "here")
    assert parse_yaml("\ufeffa: 1".encode(), "here").value == {"a": 1}


def test_bombs_do_not_go_off() -> None:
    """469 bytes of merges ran a minute; a billion of aliases would have taken all memory."""
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    merges = ["a: &a {x: 1}"]
    merges += [
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    began = time.process_time()
    for text in ("\n".join(rows), "\n".join(merges), "\n".join(merges).replace("<<", "!!merge <<")):
        with pytest.raises(ConfigError):
            parse_yaml(text, "here")
    assert time.process_time() - began < 10


def test_an_override_has_no_line() -> None:
    with pytest.raises(ConfigError, match=r"^--lr: the tag !!binary"):
        parse_value("!!binary aGk=", "--lr")


class _Any(Config):
    a: Any = None


def test_a_request_is_read_as_a_file_is() -> None:
    assert parse_config(_Any, b'{"a": "\\ud83d\\ude00"}', where="body").a == "\U0001f600"
    with pytest.raises(ConfigError, match=r"body:1:7: not YAML|body:1:\d+: "):
        parse_config(_Any, b'{"a": "\\ud83d"}', where="body")


def test_no_other_module_reads_yaml() -> None:
    home = Path(yaml_values.__file__).parents[1]
    readers = [
        str(path.relative_to(home))
        for path in home.rglob("*.py")
        if "yaml.load" in path.read_text()
        or "yaml.safe_load" in path.read_text()
        or "SafeLoader" in path.read_text()
    ]
    assert readers == ["core/yaml_values.py"]
