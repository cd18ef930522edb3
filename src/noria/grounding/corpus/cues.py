"""Words about behaviour: which cue a text names, which way it leans, what contradicts what.

No language model: content words cut to a stem, a small table of synonyms, pairs of opposites. It is what the offline
judge and the untrained readers stand on, and knows no more English than these tables.
"""

from __future__ import annotations

import functools
import re

__all__ = ["alike", "claims_of", "conflicts", "cues", "direction", "mentions"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOP = _words(
    """a about above again after all also an and any are as at be because been before being below between both but
    by can could did do does during each few for from further had has have having he her here hers him his how i
    if in into is it its itself just me more most my no nor not of off on once only or other our out over own
    same she should so some such than that the their them then there these they this those through to too under
    until up very was we were what when where which while who whom why will with would you your s one moment
    subject person speaker someone clearly seems appears shows shown showing show indicates indicating suggests
    suggesting suggest speaks speak rests rest level rating score trait high low medium less rather quite
    slightly somewhat something anything way making makes make around video clip seen heard evidence cue cues
    behaviour behavior reason reasons supports support points point visible
    present sign signs displays displayed observed noted evident apparent overall therefore thus hence consistent"""
)
_TRAITISH = _words(
    """extraversion extraverted agreeableness agreeable conscientiousness conscientious neuroticism neurotic openness
    open big five"""
)
_SAME = (
    ("mouth up", "smile smiles smiling grin grins"),
    ("mouth down", "frown frowns frowning scowl"),
    ("mouth", "lip lips"),
    ("eyebrow", "brow brows eyebrows"),
    ("eye", "gaze gazes glance glances look looks eyes"),
    ("up", "raise raises raised rise rises lift lifts lifted upward upwards curve curves up climbs"),
    ("down", "bends downward downwards lower drops drop falls"),
    ("left", "left leftward leftwards"),
    ("right", "right rightward rightwards"),
    ("together", "draw draws drawn furrow furrows furrowed knit"),
    ("close", "closer forward"),
    ("away", "away back backward backwards withdraws"),
    ("lean", "leans leaning lean"),
    ("loud", "loud louder loudly"),
    ("soft", "soft softer softly quiet quieter quietly"),
    ("high_pitch", "higher"),
    ("voice", "tone speech"),
    ("tilt", "tilt tilts tilting tilted"),
    ("hand", "hands gesture gestures arm"),
    ("nod", "nods nodding"),
)
_SYNONYMS = {word: meaning for meaning, words in _SAME for word in words.split()}
_OPPOSITES = (("up", "down"), ("left", "right"), ("close", "away"), ("loud", "soft"), ("up", "together"))
_NEGATION = re.compile(r"\b(?:no|not|never|without|n't|lacks?|absence of|hardly)\b", re.IGNORECASE)


@functools.lru_cache(maxsize=65_536)
def cues(text: str) -> frozenset[str]:
    """The content words of a text, stemmed, synonyms made one, words about traits and levels left out."""
    stems: set[str] = set()
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _SYNONYMS:
            stems.update(_SYNONYMS[word].split(" "))
        elif word not in _STOP and word not in _TRAITISH and len(word) > 2:
            stems.add(_stem(word))
    return frozenset(stems)


def _stem(word: str) -> str:
    for end in ("ingly", "edly", "wards", "ward", "ing", "ies", "ed", "ly", "es", "s"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            return word[: -len(end)]
    return word


def alike(one: str, other: str) -> float:
    """Overlap of two texts' cues: |A ∩ B| / √(|A| |B|)."""
    a, b = cues(one), cues(other)
    return len(a & b) / (len(a) * len(b)) ** 0.5 if a and b else 0.0


def conflicts(one: str, other: str) -> bool:
    """Whether one says up where the other says down, and so on."""
    a, b = cues(one), cues(other)
    for x, y in _OPPOSITES:
        if (x in a and y in b and y not in a and x not in b) or (
            y in a and x in b and x not in a and y not in b
        ):
            return True
    return False


def mentions(text: str, description: str, *, least: float = 0.5) -> bool:
    """Whether some clause of `text` names most cues of `description`, and none that is their opposite."""
    wanted = cues(description)
    if not wanted:
        return False
    for clause in (*claims_of(text), text) if len(text) > 80 else (text,):
        share = len(wanted & cues(clause)) / len(wanted)
        if share >= least and not conflicts(clause, description) and not _NEGATION.search(clause):
            return True
    return False


def claims_of(text: str) -> list[str]:
    """The clauses of a text that name something seen or heard."""
    clauses = re.split(r"(?<=[.!?])\s+|;\s+|,\s+(?:and|while|but|which|so)\s+|:\s+", text)
    return [clause.strip(" .,;") for clause in clauses if cues(_without_times(clause))]


def _without_times(text: str) -> str:
    return re.sub(r"\[?\d+(?:\.\d+)?\s*s?(?:\s*[-–]\s*\d+(?:\.\d+)?\s*s)?\]?", " ", text)


_MORE = re.compile(
    r"\b(?:high(?:er)?|more|above|strong(?:er|ly)?|elevated|great(?:er)?|very high)\b", re.IGNORECASE
)
_LESS = re.compile(r"\b(?:low(?:er)?|less|below|weak(?:er)?|little|reduced|lack(?:s|ing)?)\b", re.IGNORECASE)
_EVEN = re.compile(r"\b(?:medium|moderate|average|balanced|middle|mixed)\b", re.IGNORECASE)


def direction(text: str, trait: str, *, any_way: bool = False) -> int | None:
    """Which side of the middle a text argues for: 1, −1, or 0 for the middle; None where it does not say.

    Clauses that name the trait count, all of them where none does; words of both sides without one for the middle are
    no side.

    Args:
        text: the rationale.
        trait: the trait that it is about.
        any_way: return 2 where both sides are argued for and nothing is said of a middle.
    """
    clauses = [c for c in re.split(r"(?<=[.!?;])\s+|,\s+which\s+", text) if trait in c.lower()] or [text]
    more, less, even = (sum(len(p.findall(c)) for c in clauses) for p in (_MORE, _LESS, _EVEN))
    if even:
        return 0
    if more and less:
        if any_way:
            return 2
        return None if more == less else (1 if more > less else -1)
    return 1 if more else -1 if less else None
