"""What has the form of something personal or secret leaves the text; what only looks alike stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from noria.core.errors import ConfigError, RunError
from noria.core.traces.redaction import KINDS, Finding, Redactor, luhn, open_redactor

REDACTOR = Redactor()
FOUND = [
    ("mail", "write to ann.b+x@ex-ample.co.uk, please", "write to [mail], please"),
    ("mail", "ann@münchen.de or <bob@example.org>", "[mail] or <[mail]>"),
    (
        "mail",
        "?to=ann%40example.org&x=1",
        "?to=[mail]&x=1",
    ),
    ("phone", "call +49 (0)171 2345678.", "call [phone]."),
    ("phone", "0171/2345678 and (030) 123 456-78", "[phone] and [phone]"),
    ("phone", "(415) 555-2671, +1 415 555 2671", "[phone], [phone]"),
    ("card", "4111 1111 1111 1111 or 378282246310005", "[card] or [card]"),
    ("account", "DE89 3704 0044 0532 0130 00, GB29NWBK60161331926819", "[account], [account]"),
    ("address", "from 192.168.2.1 to 2001:db8::1 by ::1", "from [address] to [address] by [address]"),
    ("key", "sk-proj-abcdEFGH1234567890abcd", "[key]"),
    ("key", "AKIAIOSFODNN7EXAMPLE, ghp_abcdefghijklmnopqrstuvwx", "[key], [key]"),
    ("key", "Authorization: Bearer abc.def-ghi_jklmnop", "Authorization: Bearer [key]"),
    ("key", 'password: "hunter22", next', '[key]", next'),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "[key]"),
    ("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- end", "[key] end"),
    ("key", "-----BEGIN PRIVATE KEY-----\nMIIE cut off", "[key]"),
]


@pytest.mark.parametrize(("kind", "text", "clean"), FOUND)
def test_what_has_the_form_is_taken_out_and_counted(kind: str, text: str, clean: str) -> None:
    redacted, counts = REDACTOR.redact(text)
    assert redacted == clean
    assert set(counts) == {kind}
    assert counts[kind] == clean.count(f"[{kind}]")
    assert REDACTOR.redact(redacted) == (redacted, {})


@pytest.mark.parametrize(
    "text",
    [
        "the 28 of 2026-11-28 at 12:30:45, 1,234,567.89 and 3.14159265358979",
        "order 12345678901234, card 4111 1111 1111 1112, ISBN 978-3-16-148410-0",
        "version 1.2.3.4.5, std::vector, a::b, 256.1.1.1, x@y, @someone, 100 000 000 people",
        "my token is cheap, the bearer of news, no secret at all, years 1999 2000 2001 2002",
        "MX12 is a name, GB29 NWBK 6016 1331 9268 18 has a wrong check",
    ],
)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert REDACTOR.redact(text) == (text, {})


def test_the_check_of_cards_is_luhns() -> None:
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{d}") for d in "012456789")


def test_a_kind_can_be_kept_and_a_recogniser_added() -> None:
    text = "Ann sits at 192.168.2.1"
    assert Redactor(keep=["address"]).redact(text)[0] == text
    named = Redactor(more=[lambda text: [Finding("name", text.index("Ann"), text.index("Ann") + 3)]])
    assert named.redact(text) == ("[name] sits at [address]", {"name": 1, "address": 1})
    with pytest.raises(ValueError, match="no kind 'colour'"):
        Redactor(keep=["colour"])


def test_a_recogniser_is_found_by_its_name_or_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_names.py").write_text(
        "def find(text):\n    return [('name', n, n + 3) for n in range(len(text)) if text.startswith('Ann', n)]\n"
        "def fail(text):\n    raise ValueError(text)\n"
        "number = 1\n"
    )
    (tmp_path / "our_fault.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = open_redactor(keep=["address"], find=["our_names:find"])
    assert named.redact("Ann sits at ::1, Ann") == ("[name] sits at ::1, [name]", {"name": 2})
    for name, said in (
        ("our_names:lose", "no attribute 'lose'"),
        ("our_names", "package.module:function"),
        ("", "package.module:function"),
        ("nobodys_names:find", "No module named 'nobodys_names'"),
        ("our_fault:find", "division by zero"),
        ("our_names:number", "it is no function"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            open_redactor(find=[name])
        assert str(caught.value).startswith(f"find_personal: {name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="keep_personal: there is no kind 'colour'"):
        open_redactor(keep=["colour"])
    with pytest.raises(RunError, match="it failed with ValueError") as failed:
        open_redactor(find=["our_names:fail"]).redact("a secret")
    assert "a secret" not in str(failed.value)


def test_json_is_redacted_in_keys_and_values() -> None:
    value = {"ann@example.org": ["+49 171 2345678", {"n": 1, "x": None}], "b": "plain"}
    clean, counts = REDACTOR.redact_json(value)
    assert clean == {"[mail]": ["[phone]", {"n": 1, "x": None}], "b": "plain"}
    assert counts == {"mail": 1, "phone": 1}


@given(st.text(), st.sampled_from([text for _, text, _ in FOUND]), st.text())
def test_a_secret_is_found_among_other_lines(before: str, secret: str, after: str) -> None:
    clean, counts = REDACTOR.redact(f"{before}\n\n{secret}\n\n{after}")
    assert counts
    assert secret not in clean


@pytest.mark.parametrize(
    "unit", ["a", "1", "1 ", "a@", "a.a.", "+49 ", "::", "0:", "eyJa", "sk-a-", "password", "AB12 ", "bearer ", "(0",
             "-----BEGIN PRIVATE KEY-----", "a.a@"],
)  # fmt: skip
def test_no_text_takes_long(unit: str) -> None:
    assert {kind for kind, _, _ in FOUND} == KINDS
    text = unit * (100_000 // len(unit))
    began = time.process_time()
    REDACTOR.redact(text)
    assert time.process_time() - began < 20
