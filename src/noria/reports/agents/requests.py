"""Reading of a request: its language, length, years, entities, measures and demanded visuals, by grammar and
vocabulary.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from noria.reports.charts.choosing import demanded_images, demanded_kinds
from noria.reports.charts.records import ChartKind
from noria.reports.document.blocks import Language
from noria.reports.search.index import Index
from noria.reports.search.terms import query_terms

_LENGTH = re.compile(r"(\d[\d,]{2,6})\s*[- ]?(?:words?\b|字)")
_CLAUSE = re.compile(r"[.;:!?。；：！？\n]|\(\d\)|（\d）|,(?=\s)|，|、|\band\b|以及|并")
_ORDER = re.compile(
    r"^(?:please\s+)?(?:describe|explain|discuss|summari[sz]e|report on|write (?:about|a report on)|tell me about)\s+"
    r"|^(?:请)?(?:描述|说明|介绍|讨论|总结|撰写)(?:一下)?|^(?:the|about|on)\s+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；\n])")
_DRAW = re.compile(
    r"\b(?:draw|plot|show|add|compared?|(?:line|bar|column|pie|area|radar|scatter)?[ -]?"
    r"(?:charts?|graphs?|plots?|diagrams?))\b",
    re.IGNORECASE,
)
_OTHER = re.compile(r": (?:and )?others?$")
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)")
_CJK = re.compile(r"[\u3400-\u9fff]")
ALIASES = {
    "US": "United States",
    "USA": "United States",
    "U.S.": "United States",
    "UK": "United Kingdom",
    "UAE": "United Arab Emirates",
    "Türkiye": "Turkey",
    "Myanmar": "Burma",
    "Bahamas": "The Bahamas",
    "Gambia": "The Gambia",
    "Dominican Republic": "The Dominican",
    "Democratic Republic of the Congo": "DRC",
    "Ivory Coast": "Côte d'Ivoire",
}
DESCRIBED = 0.75
"""Share of a request's words that describe a table, from which on the table is meant and not a measure of its words."""
GLOSSARY = {
    "人口": "Population: total",
    "人均国内生产总值": "Real GDP per capita",
    "人均GDP": "Real GDP per capita",
    "国内生产总值": "Real GDP (purchasing power parity)",
    "经济增长": "Real GDP growth rate",
    "增长率": "Real GDP growth rate",
    "通货膨胀": "Inflation rate (consumer prices)",
    "通胀": "Inflation rate (consumer prices)",
    "失业率": "Unemployment rate",
    "青年失业": "Youth unemployment rate (ages 15-24): total",
    "公共债务": "Public debt",
    "出口": "Exports",
    "进口": "Imports",
    "预期寿命": "Life expectancy at birth: total population",
    "生育率": "Total fertility rate",
    "出生率": "Birth rate",
    "死亡率": "Death rate",
    "婴儿死亡率": "Infant mortality rate: total",
    "城市化": "Urbanization: urban population",
    "识字率": "Literacy: total population",
    "用电量": "Electricity: consumption",
    "电力消费": "Electricity: consumption",
    "发电": "Electricity generation sources",
    "核电": "Nuclear energy: Percent of total electricity production",
    "煤炭": "Coal: consumption",
    "天然气": "Natural gas: consumption",
    "互联网": "Internet users: percent of population",
    "移动电话": "Telephones - mobile cellular: total subscriptions",
    "面积": "Area: total",
    "军费": "Military expenditures",
    "碳排放": "Carbon dioxide emissions: total emissions",
    "二氧化碳": "Carbon dioxide emissions: total emissions",
    "医疗支出": "Health expenditure",
    "教育支出": "Education expenditure",
    "基尼": ("Gini Index coefficient - distribution of family income"),
    "劳动力": "Labor force",
    "汇款": "Remittances",
    "肥胖": "Obesity - adult prevalence rate",
}
"""Chinese names of measures of the World Factbook."""


class Demand(msgspec.Struct, frozen=True):
    """A visual that a request asks for: kind of chart, or `image`, with the words around it."""

    kind: ChartKind | str
    words: str


class Request(msgspec.Struct, frozen=True):
    """What a request asks, read without a model.

    Attributes:
        text: the request.
        language: language of the report.
        words: word total; 0 where it names none.
        years: years that it names, ascending.
        entities, measures: names of the corpus that it speaks of, in its order.
        tables: ids of tables that it speaks of, best first.
        beside: ids of tables that a sentence without a measure speaks of, where other sentences name measures.
        demands: visuals that it asks for.
        queries: queries for the search; empty where the request itself is the query.
    """

    text: str
    language: Language
    words: int
    years: tuple[int, ...]
    entities: tuple[str, ...]
    measures: tuple[str, ...]
    tables: tuple[str, ...]
    demands: tuple[Demand, ...]
    queries: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def searched(self) -> tuple[str, ...]:
        """What is searched for: the queries, else the request."""
        return self.queries or (self.text,)


def topics_of(request: Request) -> list[str]:
    """Clauses of a request that name a topic in words: without its order to write, and without its visuals."""
    found = []
    for clause in _CLAUSE.split(request.text):
        clause = " ".join(_ORDER.sub("", clause.strip(), count=1).split()).strip(" ,.，。")
        if not clause or demanded_kinds(clause) or demanded_images(clause):
            continue
        if query_terms(_without(clause, request.entities)):
            found.append(clause[:120])
    return list(dict.fromkeys(found))


def language_of(text: str) -> Language:
    """Language by the share of Chinese characters: a fifth is enough, for names and figures are in Latin script."""
    letters = [c for c in text if c.isalpha()]
    return "zh" if letters and sum(bool(_CJK.match(c)) for c in letters) >= 0.2 * len(letters) else "en"


def demands_of(text: str) -> tuple[Demand, ...]:
    """Visuals that a request names, in its order."""
    found: list[tuple[int, str]] = [(place, kind) for kind, place in demanded_kinds(text)]
    found += [(place, "image") for place in demanded_images(text)]
    return tuple(Demand(kind, _around(text, place)) for place, kind in sorted(found))


def _around(text: str, place: int) -> str:
    """The clause around a place, up to the next comma, "and" or full stop on either side."""
    edges = [0, *(m.end() for m in re.finditer(r"[,;.，、。；：:\n]|\band\b|和|及|并", text)), len(text)]
    start = max(edge for edge in edges if edge <= place)
    ends = [edge for edge in edges if edge > place + 2]
    return " ".join(text[start : min(ends, default=len(text))].split()).strip(" ,;.，、。；")[:200]


def read_request(text: str, index: Index | None, *, language: Language | Literal[""] = "") -> Request:
    """Read a request in the words of a corpus, if there is one; `language` is that of the report where it is not the
    request's.
    """
    length = _LENGTH.search(text)
    years = sorted({int(year) for year in _YEAR.findall(text)})
    entities = [] if index is None else _entities(text, index)
    tables = {} if index is None else _tables(text, index)
    measures = () if index is None else tuple(_measures(_without(text, entities), index))
    if tables and not entities and max(tables.values()) >= DESCRIBED:
        measures = ()
    sentences = {} if index is None else _tables_of_sentences(text, entities, index, measured=bool(measures))
    if tables and not measures:
        tables |= {id: 0.0 for id in sentences if id not in tables}
    return Request(
        text=text,
        language=language or language_of(text),
        words=int(length[1].replace(",", "")) if length else 0,
        years=tuple(years),
        entities=tuple(entities),
        measures=measures,
        tables=tuple(tables),
        demands=demands_of(text),
        beside=tuple(sentences) if measures else (),
    )


def _without(text: str, entities: Sequence[str]) -> str:
    """A text without names of entities, which are parts of measures ("Exports - partners: Germany"), too."""
    for name in entities:
        text = text.replace(name, " ")
    return text


def _entities(text: str, index: Index) -> list[str]:
    known = set(index.entities())
    names = {name: name for name in known} | {alias: name for alias, name in ALIASES.items() if name in known}
    if _CJK.search(text):
        names |= {zh: en for zh, en in _chinese_names().items() if en in known}
    places: dict[str, int] = {}
    covered: list[range] = []
    for name in sorted(names, key=len, reverse=True):
        pattern = re.escape(name) if not name.isascii() else rf"(?<!\w){re.escape(name)}(?!\w)"
        for match in re.finditer(pattern, text):
            if not any(match.start() in span for span in covered):
                covered.append(range(match.start(), match.end()))
                places.setdefault(names[name], match.start())
    return sorted(places, key=lambda name: places[name])


@functools.cache
def _chinese_names() -> dict[str, str]:
    """English names of countries by their Chinese ones, of Unicode's CLDR; empty where Babel is not installed."""
    try:
        from babel import Locale
    except ModuleNotFoundError:
        return {}
    zh, en = Locale("zh").territories, Locale("en").territories
    names = {zh[code]: en[code] for code in zh if len(code) == 2 and code in en}
    return names | {"土耳其": "Turkey", "捷克": "Czechia", "缅甸": "Burma"}


def chinese_name(name: str) -> str:
    """Chinese name of a country; the name itself where none is known."""
    return next((zh for zh, en in _chinese_names().items() if en == name), name)


def english_names(text: str) -> str:
    """English names of the countries and measures that a text names in Chinese, joined by blanks."""
    names = (_chinese_names() | GLOSSARY) if _CJK.search(text) else {}
    return " ".join(en for zh, en in names.items() if zh in text)


def chinese_measure(measure: str) -> str:
    """Chinese name of a measure; the name itself where none is known."""
    return next((zh for zh, en in GLOSSARY.items() if en == measure or measure.startswith(en)), measure)


def _measures(text: str, index: Index, most: int = 6) -> list[str]:
    """Measures of the corpus that clauses of the text speak of, the best of each clause, in the order of the text."""
    known = index.measures()
    if not known:
        return []
    found: list[str] = []
    if _CJK.search(text):
        hits = [(text.find(zh), -len(zh), en) for zh, en in GLOSSARY.items() if zh in text]
        taken: list[range] = []
        for place, size, en in sorted(hits, key=lambda h: h[1]):
            if not any(place in span for span in taken):
                taken.append(range(place, place - size))
                if en in known:
                    found.append(en)
        found.sort(
            key=lambda en: min(
                (text.find(zh) for zh, name in GLOSSARY.items() if name == en and zh in text), default=0
            )
        )
    scorer = _Scorer(known)
    for clause in _CLAUSE.split(text):
        best = scorer.best(clause)
        if best and best not in found:
            found.append(best)
    return found[:most]


def related_measures(request: Request, index: Index, goal: str = "", most: int = 40) -> list[str]:
    """Measures of the corpus that share words with a request, or with a goal of it; those of the request come first."""
    wanted = stems(goal or request.text)
    shared = {name: len(stems(name) & wanted) for name in index.measures()}
    near = sorted((name for name, count in shared.items() if count), key=lambda name: (-shared[name], name))
    return list(dict.fromkeys((*request.measures, *near)))[:most]


def translated_query(request: Request, language: str) -> str:
    """The names of a request in another language, by the glossary and the names of countries; the request itself
    where it has none, or is in that language already.
    """
    names = [*request.measures, *request.entities]
    if request.language == language or not names:
        return request.text
    if language == "en":
        return ", ".join(names)
    return "、".join([*map(chinese_measure, request.measures), *map(chinese_name, request.entities)])


class _Scorer:
    """Scores measures against clauses: share of a measure's words, weighted by rarity, that a clause has."""

    def __init__(self, known: dict[str, int]) -> None:
        least = 2 if max(known.values()) > 20 else 1
        self.terms = {
            name: stems(name) for name, count in known.items() if count >= least and not _OTHER.search(name)
        }
        self.known = known
        counts: dict[str, int] = {}
        for words in self.terms.values():
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        self.weights = {word: math.log(1 + len(self.terms) / count) for word, count in counts.items()}

    def best(self, clause: str) -> str | None:
        wanted = stems(clause)
        if not wanted:
            return None
        top, name = 0.0, None
        for measure, words in self.terms.items():
            shared = words & wanted
            if not shared:
                continue
            weight = sum(self.weights[w] for w in shared)
            # "total" and the general field are meant where a clause does not say which part.
            free = {"total", "population", "est", "rate"} - wanted
            share = weight / sum(self.weights[w] for w in words - free or words)
            score = share * weight + 0.15 * math.log1p(self.known[measure])
            if share >= 0.6 and score > top:
                top, name = score, measure
        return name


def stems(text: str) -> frozenset[str]:
    """Words of a text without stop words, digits and endings."""
    return frozenset(
        re.sub(r"(?:ies|s|ing|ed)$", "", word) if len(word) > 4 else word
        for word in query_terms(text)
        if not word.isdigit()
    )


def _tables(text: str, index: Index, most: int = 3) -> dict[str, float]:
    """Tables that a request speaks of, best first, each with the share of the request's words that describe it.

    A table is spoken of where its title is named, or where its description and columns have half of the words.
    """
    wanted = stems(text)
    titles = {id: stems(index.source(id).title) for id in index.table_sources()}
    named = {id: len(title) for id, title in titles.items() if title and title <= wanted}
    hits = [hit.id for hit in index.search(text, 10, tables=True)] if titles else []
    shares: dict[str, float] = {}
    for id in dict.fromkeys([*named, *(hit.partition("#")[0] for hit in hits)]):
        passage = index.passage(f"{id}#p0")
        words = titles[id] | stems(passage.text if passage is not None else "")
        shares[id] = len(wanted & words) / max(1, len(wanted))
    kept = [id for id in shares if id in named or shares[id] >= 0.5]
    kept.sort(key=lambda id: (-(shares[id] + 0.25 * named.get(id, 0)), int(id[1:])))
    return {id: shares[id] for id in kept[:most]}


def _tables_of_sentences(
    text: str, entities: Sequence[str], index: Index, *, measured: bool
) -> dict[str, float]:
    """Tables that describe three quarters of the words of a sentence, where a request has several sentences.

    Where the request names measures, a sentence that names one speaks of no table.
    """
    sentences = [_DRAW.sub(" ", sentence) for sentence in _SENTENCE_END.split(text)]
    found: dict[str, float] = {}
    for sentence in sentences if len(sentences) > 1 else ():
        if len(stems(sentence)) >= 2 and not (measured and _measures(_without(sentence, entities), index)):
            best = _tables(sentence, index, 1)
            found |= {id: share for id, share in best.items() if share >= DESCRIBED and id not in found}
    return found


def years_between(years: Sequence[int]) -> tuple[int, int] | None:
    """First and last year of a range that a request names; None where it names fewer than two."""
    return (min(years), max(years)) if len(years) >= 2 else None
