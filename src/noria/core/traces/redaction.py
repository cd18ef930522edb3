"""Personal data and secrets taken out of text before it is written, each kind counted.

Redaction works on whole texts: a secret that a stream cut into pieces is whole again by then. It finds what has a form:
mail and network addresses, phone, card and account numbers, keys. It does not find names or streets; a recogniser of
your own (`Redactor(more=…)`, by its name :func:`open_redactor`) may.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from noria.core.errors import ConfigError, RunError

MARK = "[{}]"
"""Text that takes the place of what was found, such as `[mail]`."""


class Finding(NamedTuple):
    """A place in a text that must not be kept: its kind, where it begins, and where it ends."""

    kind: str
    start: int
    end: int


_BLOB = re.compile(r"blob:sha256:[0-9a-f]{64};[\w.+-]+/[\w.+-]+")
Recogniser = Callable[[str], Iterable[Finding]]


class _Kind(NamedTuple):
    """A form that is looked for only where one of `hints` (lower case) is, and that counts only where `holds` agrees.

    Hints are what makes it fast: a search for a substring takes a hundredth of the time of the pattern.
    """

    name: str
    hints: Sequence[str]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _: True


def _digits(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


def luhn(number: str) -> bool:
    """Whether digits pass the check of payment cards (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(text: str) -> bool:
    digits = _digits(text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _is_iban(text: str) -> bool:
    """Whether the check digits of an account number hold (ISO 13616: the rearranged number is 1 modulo 97)."""
    plain = re.sub(r"\s", "", text).upper()
    rearranged = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in rearranged)) % 97 == 1


def _is_phone(text: str) -> bool:
    digits = _digits(text)
    return 8 <= len(digits) <= 15 and not re.fullmatch(r"\s*\d{4}[-./]\d{1,2}[-./]\d{1,2}.*", text)


def _is_v4(text: str) -> bool:
    return all(int(part) < 256 for part in text.split("."))


def _is_v6(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return any(c.isdigit() for c in text) or text.count(":") > 3


_DIGITS = tuple("0123456789")
# A pattern begins with what it consumes and looks behind after that: then the engine skips to where it can begin.
# fmt: off
_KEY_HINTS = ("eyj", "akia", "asia", "aiza", "sk-", "k_", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_",
              "glpat-", "xox", "hf_", "npm_", "pypi-", "sg.")
# fmt: on
_KINDS = (
    _Kind(
        "key",
        ("private key",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY-----|.*)", re.DOTALL
        ),
    ),
    _Kind(
        "key",
        _KEY_HINTS,
        re.compile(
            r"(?<![A-Za-z0-9])(?:eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # JSON web tokens
            r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])|AIza[\w-]{30,}"  # AWS, Google
            r"|(?:sk|rk|pk)[-_](?:[A-Za-z0-9]+[-_]){0,3}[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic, Stripe
            r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
            r"|xox[abeoprs]-[\w-]{10,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{20,}"
            r"|SG\.[\w-]{16,}\.[\w-]{16,})"
        ),
    ),
    _Kind(
        "key",
        ("bearer", "passw", "secret", "token", "api"),
        re.compile(
            r"(?i)(?:(?<=bearer )|(?<=bearer\t))[A-Za-z0-9._~+/=-]{12,}"
            r"|(?:password|passwort|passwd|secret|api[_ -]?key|access[_ -]?token|auth[_ -]?token)"
            r"[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?[^\s\"',;]{6,}"
        ),
    ),
    _Kind(
        "mail",
        ("@", "\N{FULLWIDTH COMMERCIAL AT}", "%40"),
        re.compile(
            r"[\w.!#$%'*+/^`{|}~-]{1,64}(?:[@\N{FULLWIDTH COMMERCIAL AT}]|%40)"
            r"(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}(?!\w)"
        ),
    ),
    _Kind(
        "account",
        _DIGITS,
        re.compile(
            r"[A-Za-z](?<![A-Za-z0-9].)[A-Za-z]\d{2}(?:[ ]?[A-Za-z0-9]{4}){2,7}(?:[ ]?[A-Za-z0-9]{1,3})?(?!\w)"
        ),
        _is_iban,
    ),
    _Kind(
        "card",
        _DIGITS,
        re.compile(r"\d(?<![\w.]\d)(?:[ \-.\u00a0]?\d){12,18}(?!\w)"),
        _is_card,
    ),
    _Kind(
        "address",
        tuple(f".{digit}" for digit in range(10)),
        re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\d|\.\d)"),
        _is_v4,
    ),
    _Kind(
        "address",
        ("::", ":0", ":1", ":2", ":d", ":f"),
        re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"),
        _is_v6,
    ),
    _Kind(
        "phone",
        _DIGITS,
        re.compile(
            r"[+(\d](?<![\w.,:/#-].)(?:"
            r"(?:(?<=\+)|(?<=0)0)\d{1,3}[ \-./()\u00a0]{0,2}(?:\(0\))?(?:[ \-./()\u00a0]{0,2}\d){6,13}"  # +49 …, 0049 …
            r"|(?:(?<=\()0|(?<=0))\d{1,5}\)?[ \-/.\u00a0]{1,2}\d(?:[ \-/.\u00a0]?\d){4,10}"  # 030 …, (030) …
            r"|(?:(?<=\()\d|(?<=\d))\d{2}\)?[ \-.\u00a0]{1,2}\d{3}[ \-.\u00a0]\d{4})(?!\w)"  # 415-555-2671
        ),
        _is_phone,
    ),
)


_WORD = re.compile(r"[a-z_]{0,16}")  # too short and too plain for any kind, as are most keys and roles


class Redactor:
    """Takes personal data and secrets out of texts.

    Args:
        more: recognisers beside those of a form, such as one of names.
        keep: kinds that stay, such as `address` where network addresses are what the assistant is about.
    """

    def __init__(self, *, more: Iterable[Recogniser] = (), keep: Iterable[str] = ()) -> None:
        self._more = tuple(more)
        unknown = set(keep) - KINDS
        if unknown:
            raise ValueError(f"there is no kind {sorted(unknown)[0]!r}; kinds are {', '.join(sorted(KINDS))}")
        self._kinds = tuple(kind for kind in _KINDS if kind.name not in set(keep))

    def redact(self, text: str) -> tuple[str, Counter[str]]:
        """Text with personal data replaced, and the number of places of each kind."""
        counts: Counter[str] = Counter()
        findings = sorted(self._findings(text), key=lambda finding: (finding.start, -finding.end))
        parts, place = [], 0
        for kind, start, end in findings:
            if start < place:  # it lies in the one before, or laps over it
                if end > place:
                    place = end
                continue
            parts += [text[place:start], MARK.format(kind)]
            counts[kind] += 1
            place = end
        return "".join([*parts, text[place:]]), counts

    def redact_json(self, value: Any) -> tuple[Any, Counter[str]]:
        """JSON values whose texts, keys included, are redacted, and the number of places of each kind.

        A reference to a blob stays, whatever its digits look like.
        """
        counts: Counter[str] = Counter()

        def one(text: str) -> str:
            clean, found = self.redact(text)
            counts.update(found)
            return clean

        def walk(value: Any) -> Any:
            if isinstance(value, str):
                return value if _WORD.fullmatch(value) or _BLOB.fullmatch(value) else one(value)
            if isinstance(value, list):
                return [walk(item) for item in value]
            if isinstance(value, dict):
                return {walk(key): walk(item) for key, item in value.items()}
            return value

        return walk(value), counts

    def _findings(self, text: str) -> Iterator[Finding]:
        lower = text.lower()
        for kind in self._kinds:
            for hint in kind.hints:  # a plain loop: `any` over a generator takes three times as long
                if hint in lower:
                    for match in kind.pattern.finditer(text):
                        if kind.holds(match[0]):
                            yield Finding(kind.name, *match.span())
                    break
        for recogniser in self._more:
            yield from recogniser(text)


KINDS = frozenset(kind.name for kind in _KINDS)
"""Kinds that a :class:`Redactor` finds by their form."""


def open_redactor(*, keep: Iterable[str] = (), find: Iterable[str] = ()) -> Redactor:
    """A redactor from the settings `keep_personal` and `find_personal`.

    Args:
        keep: kinds that stay.
        find: recognisers of your own, each `package.module:function`; of a text one gives the kind, start and end of
            each place.

    Raises:
        ConfigError: a kind is not known, or a recogniser cannot be imported or called.
    """
    more = [_named(name) for name in find]
    try:
        return Redactor(more=more, keep=keep)
    except ValueError as error:
        raise ConfigError(str(error), where="keep_personal") from None


def _named(name: str) -> Recogniser:
    """The recogniser at `package.module:function`; a module may lie in the current folder.

    Raises:
        ConfigError: there is none.
    """
    where = f"find_personal: {name}"
    module, _, function = name.partition(":")
    sys.path.insert(0, "")
    try:
        recogniser = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module of the operator's own raises what it likes
        raise ConfigError(
            f"it cannot be imported: {error or type(error).__name__}",
            where=where,
            mend="write package.module:function",
        ) from error
    finally:
        sys.path.remove("")
    if not callable(recogniser):
        raise ConfigError("it is no function", where=where)

    def find(text: str) -> list[Finding]:
        try:
            return [Finding(str(kind), int(start), int(end)) for kind, start, end in recogniser(text)]
        except Exception as error:  # its words may repeat the text, which then stood in the log
            raise RunError(f"it failed with {type(error).__name__}; nothing is kept", where=where) from None

    return find
