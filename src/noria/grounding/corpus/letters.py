"""The letter that an answer gives: strictly a bare one, leniently one in any dress, none where it could be two.

Nothing but the standard library is imported here: task folders for other harnesses hold a copy of this module.
"""

from __future__ import annotations

import re
import unicodedata

LETTERS = "ABCDEF"
LONGEST_ANSWER = 2000
"""Characters of an answer that are looked at."""

_NOUN = (
    r"(?:answer|option|choice|letter|response|antwort|lösung|réponse|respuesta|opción|resposta|opção|risposta|opzione|"
    r"antwoord|svar|odpowiedź|odpověď|ответ|вариант|відповідь|cevap|yanıt|jawaban|đáp án|"
    r"答案|回答|选项|選項|选择|選擇|答え|正解|解答|정답|답|الإجابة|الجواب|उत्तर|คำตอบ|תשובה)"
)
_SUCH = (
    r"(?:final|correct|right|best|most likely|selected|chosen|my|richtige|bonne|correcta|correta|corretta|"
    r"правильный|doğru|正确|正確|最终|最終|最佳)"
)
_IS = r"(?:is|would be|should be|must be|ist|lautet|est|es|é|è|это|是|为|為|应为|應為|选|選|は|은|는|:|=|-|–|—|→|->)"
_DRESS = r"[\s*_`\"'“”‘’(\[{<«「【$]"
_PREFIX = (
    rf"(?:(?:the|la|el|a|die|le|l['’])?\s?(?:{_SUCH}\s?){{0,2}}{_NOUN}\s?"
    rf"(?:{_IS}|{_SUCH}|{_DRESS}|{_NOUN}){{0,12}}|[选選]|"
    rf"(?:i(?:['’]d| would)?\s)?(?:choose|pick|select|go with)\s(?:{_NOUN}\s)?)"
)
_HEAD = re.compile(
    rf"^{_DRESS}{{0,9}}({_PREFIX})?{_DRESS}{{0,9}}(?<![A-Za-zÀ-ÿ])([A-F])(?![A-Za-z0-9]|['’][A-Za-z])",
    re.IGNORECASE,
)
_CLOSE = re.compile(r"[*_`\"'“”‘’)\]}>»」】$.:,;!。．：，、\s-]*")
_SUFFIX = re.compile(r"(?:选项|選項|项|項|です|だ|입니다|이다|번)?[\s。.!*]*$")
_REASON = re.compile(
    r"^[*\s]*[.,;。–—-]?\s*(?:(?:because|since|as|for|is (?:the )?(?:correct|right|best)|weil|car|porque)\b|因[为為]|"
    r"(?:not|rather than|instead of|and not)\s(?:option\s)?[A-F]\b)",
    re.IGNORECASE,
)
_MARK = re.compile(r"^\s?[*_`\"'”’)\]}>.:,;(–—。．：，、-]")
_DENIED = re.compile(
    r"^\W*(?:is|was|are|seems|looks|can|ist|est)?\s*(?:not|n['’]t|no|never|cannot|wrong|incorrect|false|unlikely|"
    r"impossible|eliminated|excluded|ruled out|falsch|nicht|faux|incorrecta|错|不|неверно)",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"^\W*(?:(?:or|oder|and/or|vs\.?|versus)(?![a-z])|或|또는|"
    r"(?:(?:and|und|et|ou|y|o|e|или|и)(?![a-z])|[,/|&+;、，和与與及と])\W*[A-F](?![A-Za-z0-9]|['’][A-Za-z]))",
    re.IGNORECASE,
)
_NEXT = re.compile(r"^\s+[*_(\[]*[A-F](?![A-Za-z0-9]|['’][A-Za-z])")
_LETTER = re.compile(r"(?<![A-Za-z0-9'’])[A-F](?![A-Za-z0-9]|['’][A-Za-z])")
_JOINED = re.compile(r"(?:\b(?:or|and)|[,/&+;|])\W*$")
_LATEX = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathbf|mathrm|mathit|mathsf|bf|rm)\s?\{([^{}]*)\}")


def letter_of(given: object, *, lenient: bool = False) -> str | None:
    """The letter of an answer; None where there is none, or more than one.

    Strict takes a bare letter, whatever its case. Lenient takes `(C)`, `C.`, `Option C`, `C: the words` as well. An
    answer of several letters (`A, C`, `A or B`) is no answer, and `A person smiles` begins with a word.

    >>> letter_of(" c "), letter_of("(C)"), letter_of("(C)", lenient=True)
    ('C', None, 'C')
    >>> letter_of("C or D", lenient=True) is letter_of("A person smiles", lenient=True) is None
    True
    """
    if not isinstance(given, str):
        return None
    bare = given.strip()
    if len(bare) == 1 and bare.upper() in LETTERS:
        return bare.upper()
    return (claim(given) or None) if lenient else None


def claim(text: str) -> str | None:
    """The letter that a text begins with; "" where it names several, None where it names none or denies it.

    Args:
        text: an answer, or the rest of a line behind `Answer:`.
    """
    plain = plain_text(text[:LONGEST_ANSWER]).strip()
    head = _HEAD.match(plain)
    if head is None:
        return None
    letter, rest = head[2].upper(), plain[head.end() :].split("\n", 1)[0]
    reason = _REASON.match(rest)
    if _DENIED.match(rest) and not reason:
        return None
    if (_BESIDE.match(rest) and not reason) or _NEXT.match(rest) or rest.lstrip("*_ ").startswith("?"):
        return ""
    if _CLOSE.fullmatch(rest) or _SUFFIX.match(rest):
        return letter
    if not (reason or _MARK.match(rest)):  # a word that is one letter long, or an article
        return None
    return letter if reason or not _others(letter, rest) else ""


_EXPLAINED = re.compile(r"\b(?:because|since)\b|(?<=[.!?。])\s*(?=[A-Z]?[a-z]{2}|[^\W\da-zA-Z])")
"""Where words behind a letter begin to explain: a reason, or a second sentence."""


def _others(letter: str, rest: str) -> bool:
    """Whether words behind a letter name another one; `A` before a small word is an article."""
    end = _EXPLAINED.search(rest, 2)
    rest = rest[: end.start()] if end else rest
    for other in _LETTER.finditer(rest):
        article = other[0] == "A" and re.match(r"\s+[a-z]{2}", rest[other.end() :])
        if other[0] != letter and not (article and not _JOINED.search(rest[: other.start()])):
            return True
    return False


def plain_text(text: str) -> str:
    """The text with wide letters made plain and LaTeX's boxes opened."""
    text = unicodedata.normalize("NFKC", text)
    for _ in range(3):
        if "\\" not in text:
            break
        text = _LATEX.sub(r" \1 ", text)
    return text.replace("$", " ")


# -- prose ------------------------------------------------------------------------------------------------------------

_BOXED = re.compile(
    r"\\boxed\s?\{((?:[^{}]|\{[^{}]*\}){0,200})\}|<\|begin_of_box\|>(.{0,400}?)<\|end_of_box\|>"
    r"|<answer>(.{0,2000}?)</answer>|<conclusion>(.{0,2000}?)</conclusion>",
    re.IGNORECASE | re.DOTALL,
)
_LINK = rf"[*_\s]{{0,4}}{_IS}[*_\s]{{0,4}}"
_ANSWER = re.compile(
    rf"(?:{_SUCH}\s?){{0,2}}{_NOUN}{_LINK}|\banswer\s(?=\(?[A-F]\b(?![ '’]*[a-z]))", re.IGNORECASE
)
_LISTED = re.compile(r"^\W{0,4}\d{1,2}[.):]\s+")
_FINAL = re.compile(rf"\b(?:final|最终|最終)\s?{_NOUN}(?:{_LINK})", re.IGNORECASE)


def letter_in(text: str) -> str | None:
    r"""The letter that a reply in prose gives to a single question; None where it gives none, or several.

    What is in a box or between answer tags counts before a `final answer`, and that before all else. Otherwise the
    first line, the last line and every `answer: …` must agree.

    >>> letter_in("The hand rises, so it is not A.\n\n**Answer: B**"), letter_in("Answer: A or B")
    ('B', None)
    """
    boxes = [next(part for part in box.groups() if part is not None) for box in _BOXED.finditer(text)]
    if boxes:
        return _agreed([claim(box) or "" for box in boxes])
    text = plain_text(text)
    finals = [claim(text[found.end() :]) for found in _FINAL.finditer(text)]
    if any(letter is not None for letter in finals):
        return _agreed(finals)
    lines = [line for line in text.splitlines() if line.strip("*_`# \t-")]
    ends = [claim(_LISTED.sub("", line)) for line in (lines[:1] + lines[-1:])]
    return _agreed(ends + answers_in(text))


def answers_in(text: str) -> list[str | None]:
    """What stands behind each `answer: …` of a text, as `claim` reads it."""
    return [claim(text[found.end() : found.end() + LONGEST_ANSWER]) for found in _ANSWER.finditer(text)]


def _agreed(claims: list[str | None]) -> str | None:
    letters = {letter for letter in claims if letter is not None}
    return (letters.pop() or None) if len(letters) == 1 else None
