"""Arms of the paper's ablation that need corpora of their own: research notes, image searcher; and tasks on tables."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noria.core.files import write_atomic
from noria.reports.agents.contracts import Plan
from noria.reports.agents.pipeline import Job
from noria.reports.agents.series import numeric_columns
from noria.reports.document.blocks import figures, sentences
from noria.reports.document.bundle import Bundle
from noria.reports.evaluation.automatic import demands_met
from noria.reports.evidence.records import encode
from noria.reports.evidence.support import check_sentence
from noria.reports.evidence.tables import table_kinds
from noria.reports.reading.documents import Document, Picture
from noria.reports.search.index import Index, build_index

FIELDS = (
    "Climate", "Terrain", "Legal system", "Natural resources", "Political structure", "Industries",
    "Ethnic groups", "Background", "Environmental issues", "Suffrage", "National symbol", "Agricultural products",
)  # fmt: skip
"""Fields of the World Factbook in words, of which most countries have one."""
WORDS = 8
"""Words of a table's description that a task on it quotes."""


def run_notes(index: str, seed: int, count: int) -> dict[str, Any]:
    """Share of the passages asked for that a report cites, with the planner's notes and without.

    Without them the writer searches for itself, by the title and summary of its section.
    """
    rng = np.random.default_rng(seed)
    shares: dict[str, list[float]] = {"with notes": [], "without notes": []}
    with Index(Path(index)) as opened:
        gold = _fields(opened)
        for _ in range(count):
            land = str(rng.choice(sorted(gold)))
            named = sorted(gold[land])
            asked = [str(field) for field in rng.choice(named, min(3, len(named)), replace=False)]
            text = f"Describe the {', the '.join(field.lower() for field in asked)} of {land}."
            for arm in shares:
                bundle = _written(opened, text, keep_notes=arm == "with notes")
                cited = {id for _, s in sentences(bundle.report) for id in s.cites}
                cited |= {fact.passage for id in cited for fact in bundle.book.facts_of(id)}
                shares[arm].append(float(np.mean([bool(gold[land][field] & cited) for field in asked])))
    return {name: float(np.mean(values)) for name, values in shares.items()}


def _fields(index: Index) -> dict[str, dict[str, set[str]]]:
    """Ids of the passages of each field by country, of countries that have at least three of them."""
    rows = index.base.execute(
        "SELECT s.title, p.heading, p.source, p.number FROM passages p JOIN sources s ON s.id = p.source"
    )
    gold: dict[str, dict[str, set[str]]] = {}
    for title, heading, source, number in rows:
        field = heading.rpartition(" > ")[2]
        if field in FIELDS:
            land = title.removesuffix(". The World Factbook")
            gold.setdefault(land, {}).setdefault(field, set()).add(f"S{source}#p{number}")
    known = set(index.entities())
    return {land: fields for land, fields in gold.items() if len(fields) >= 3 and land in known}


def _written(index: Index, text: str, *, keep_notes: bool) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), index)
        if not keep_notes:
            _, plan = job.plan(text)
            bare = tuple(msgspec.structs.replace(section, notes=()) for section in plan.sections)
            stripped: Plan = msgspec.structs.replace(plan, sections=bare)
            write_atomic(Path(folder) / "plan.json", encode(stripped))
        return job.write(text)


def run_images(folder: str, seed: int, count: int) -> dict[str, Any]:
    """Share of requested pictures that are the right ones: by the image searcher, and by the first caption that fits.

    The corpus has each thing sharp, blurred by 9 pixels under the same caption, and as a logo.
    """
    from noria.core.pictures import things

    rng = np.random.default_rng(seed)
    chosen = [things()[int(n)] for n in rng.choice(len(things()), count, replace=False)]
    path = Path(folder) / f"pictures-{seed}.index"
    build_index(path, [d for thing in chosen for d in _pictures(thing.code, thing.name, rng)], retrieved="")
    right = {"right picture": 0, "first by caption": 0}
    met = {"demand met": 0.0, "demand met, no image searcher": 0.0}
    with Index(path) as index:
        for thing in chosen:
            text = f"Write about the {thing.name}. Add a photo of the {thing.name}."
            for arm, images in (("demand met", True), ("demand met, no image searcher", False)):
                with tempfile.TemporaryDirectory() as home:
                    bundle = Job(Path(home), index, images=images).write(text)
                met[arm] += demands_met(text, [], len(figures(bundle.report))) or 0.0
                if images:
                    shown = {
                        bundle.book.sources[id.partition("#")[0]].url
                        for f in figures(bundle.report)
                        for id in f.cites
                    }
                    right["right picture"] += shown == {f"{thing.code}/sharp.png"}
            first = index.images(f"photo of the {thing.name}", 1)
            right["first by caption"] += [hit.url for hit in first] == [f"{thing.code}/sharp.png"]
    return {name: value / count for name, value in {**right, **met}.items()}


def _pictures(code: str, name: str, rng: np.random.Generator) -> list[Document]:
    """A thing sharp, blurred, and as a logo, in an order by lot."""
    from PIL import Image, ImageFilter

    from noria.core.pictures import draw

    sprite = draw(code, "twemoji", size=420)
    image = Image.new("RGB", (640, 480), "#e8e4da")
    image.paste(sprite, (110, 30), sprite if sprite.mode == "RGBA" else None)
    versions = {
        "blurred": (image.filter(ImageFilter.GaussianBlur(9)), name),
        "logo": (image, f"{name} logo"),
        "sharp": (image, name),
    }
    documents = []
    for kind, (picture, caption) in versions.items():
        out = io.BytesIO()
        picture.save(out, format="PNG")
        url = f"{code}/{kind}.png"
        documents.append(
            Document(url, caption, pictures=[Picture(out.getvalue(), caption, url)], origin=out.getvalue())
        )
    return [documents[int(n)] for n in rng.permutation(len(documents))]


def run_tables(index: str, seed: int, count: int) -> dict[str, Any]:
    """Tasks on the tables of vega-datasets: the right table by our planner and by the first hit of the search, the
    right column, and the support of what is written.

    A task quotes words of the table's description and names a column; the name of the table is not in it.
    """
    rng = np.random.default_rng(seed)
    sums = dict.fromkeys(
        ("table by planner", "table by first hit", "column charted", "support", "support, shuffled"), 0.0
    )
    with Index(Path(index)) as opened:
        tasks = _table_tasks(opened, rng, count)
        for id, column, text in tasks:
            with tempfile.TemporaryDirectory() as folder:
                job = Job(Path(folder), opened)
                request = job.read(text)
                bundle = job.write(text)
            hits = [hit.id.partition("#")[0] for hit in opened.search(text, 10)]
            tables = [source for source in hits if opened.table(source) is not None]
            sums["table by planner"] += request.tables[:1] == (id,)
            sums["table by first hit"] += tables[:1] == [id]
            sums["column charted"] += any(
                chart.y == column and any(_of(cell.target, id, bundle) for cell in chart.cells)
                for chart in bundle.charts.values()
            )
            written, shuffled = _support(bundle, rng)
            sums["support"] += written
            sums["support, shuffled"] += shuffled
    return {name: value / len(tasks) for name, value in sums.items()} | {"#tasks": len(tasks)}


def _of(target: str, source: str, bundle: Bundle) -> bool:
    return source in bundle.book.sources_of(target)


def _support(bundle: Bundle, rng: np.random.Generator) -> tuple[float, float]:
    said = [s for _, s in sentences(bundle.report) if s.cites and any(c.isdigit() for c in s.text)]
    order = rng.permutation(len(said))

    def share(cites: Sequence[tuple[str, ...]]) -> float:
        verdicts = [check_sentence(s.text, c, bundle.book).verdict for s, c in zip(said, cites, strict=True)]
        return float(np.mean([v == "supported" for v in verdicts])) if verdicts else 0.0

    return share([s.cites for s in said]), share([said[int(n)].cites for n in order])


def _table_tasks(index: Index, rng: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """Id of a table, a numeric column of it, and a request for the column.

    Every second request names the table by its title, the others by the first words of its description.
    """
    tasks: list[tuple[str, str, str]] = []
    for id in index.table_sources():
        source, table, passage = index.source(id), index.table(id), index.passage(f"{id}#p0")
        if table is None or passage is None or not source.url.startswith("vega-datasets"):
            continue
        columns = [c for c in numeric_columns(table) if len(c) > 2]
        words = passage.text.partition(":")[2].partition(" Columns:")[0].split()[:WORDS]
        if columns and len(words) == WORDS and {"year", "date", "name"} & set(table_kinds(table)):
            column = str(rng.choice(columns))
            shown = column.replace("_", " ")
            about = f"the data on {source.title}" if len(tasks) % 2 else " ".join(words)
            tasks.append((id, column, f"{about}: show {shown}. Draw a bar chart of {shown}."))
    return [tasks[int(n)] for n in rng.permutation(len(tasks))[:count]]
