"""Terms that tell queries of one skill from those of the others: log-odds with a Dirichlet prior.

For a term w with counts y in the one corpus (n words) and y' in the other (n'), and a prior α_w proportional to its
count in both (α₀ in sum), Monroe, Colaresi and Quinn (2008) give

    δ_w = log (y + α_w)/(n + α₀ − y − α_w) − log (y' + α_w)/(n' + α₀ − y' − α_w)
    z_w = δ_w / √(1/(y + α_w) + 1/(y' + α_w))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from noria.skills.bank.text import FILLERS, words

PRIOR = 50.0
_STOP = FILLERS | frozenset(
    words("any could get got hello hey hi i'm im just like need some thank thanks us")
)


@lru_cache(maxsize=20_000)
def grams(text: str, longest: int = 3) -> frozenset[str]:
    """Runs of one to `longest` words that neither begin nor end with a filler; CJK joins without a blank."""
    found, own = set(), words(text)
    for n in range(len(own)):
        for size in range(1, longest + 1):
            run = own[n : n + size]
            if (
                len(run) == size
                and run[0] not in _STOP
                and run[-1] not in _STOP
                and not all(w.isdigit() for w in run)
            ):
                wide = all(len(w) == 1 and ord(w) > 0x2E80 for w in run)
                if not (wide and size == 1):
                    found.add(("" if wide else " ").join(run))
    return frozenset(found)


def telling_terms(
    own: Sequence[str], rest: Sequence[str], *, most: int = 12, least: int = 2, z: float = 1.5
) -> list[str]:
    """Terms that tell `own` from `rest`, the strongest first; a term inside of a longer one of like count is left out.

    Args:
        own, rest: texts of the two corpora; a term counts once a text.
        most: most terms.
        least: fewest texts of `own` that a term is in.
        z: least z.
    """
    ours: Counter[str] = Counter(g for text in own for g in grams(text))
    theirs: Counter[str] = Counter(g for text in rest for g in grams(text))
    n, m = sum(ours.values()), sum(theirs.values())
    if not n:
        return []
    scored = []
    for term, count in ours.items():
        if count < least:
            continue
        prior = PRIOR * (count + theirs[term]) / (n + m)
        a, b = count + prior, theirs[term] + prior
        delta = math.log(a / (n + PRIOR - a)) - math.log(b / max(1e-9, m + PRIOR - b))
        score = delta / math.sqrt(1 / a + 1 / b)
        if score >= z:
            scored.append((score, term, count))
    return _without_parts(sorted(scored, key=lambda s: (-s[0], s[1])), most)


def _without_parts(scored: Iterable[tuple[float, str, int]], most: int) -> list[str]:
    kept: list[tuple[str, int]] = []
    for _, term, count in scored:
        inside = any(f" {term} " in f" {other} " and count <= 1.2 * c for other, c in kept)
        wider = next(
            (k for k, (other, c) in enumerate(kept) if f" {other} " in f" {term} " and count >= 0.8 * c), None
        )
        if wider is not None:
            kept[wider] = (term, count)
        elif not inside:
            kept.append((term, count))
        if len(kept) == most:
            break
    return list(dict.fromkeys(term for term, _ in kept))
