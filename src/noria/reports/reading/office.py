"""Reading of PDF, Word, Excel and PowerPoint files. Packed files are measured before they are unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from noria.core.errors import DataError, MissingExtra, require
from noria.core.files import decoding
from noria.reports.evidence.tables import Table, check_size
from noria.reports.reading.data import LARGEST_UNPACKED
from noria.reports.reading.documents import LARGEST_TEXT, Document, Piece, paragraphs

LARGEST_RATIO = 250
"""Largest ratio of unpacked to packed bytes, above a megabyte."""
PAGES = 3000
"""Most pages that are read of one PDF."""


def check_zip(raw: bytes, where: str) -> None:
    """Refuse a packed file that would unpack to too much.

    Raises:
        DataError: it is damaged, or a bomb.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise DataError(f"a damaged file: {error}", where=where) from None
    if size > LARGEST_UNPACKED or (size > 1_000_000 and size > LARGEST_RATIO * len(raw)):
        raise DataError(
            f"it unpacks to {size:,} bytes", where=where, mend="give the file without its padding"
        )


def read_pdf(raw: bytes, url: str) -> list[Document]:
    """Read the text of a PDF, page by page; pages without text are read by OCR where RapidOCR is installed.

    Raises:
        DataError: it is damaged or locked.
    """
    pypdf = require("pypdf", "reports")
    document = Document(url, Path(url).stem, origin=raw)
    with decoding(Path(url), "a PDF"):
        reader = pypdf.PdfReader(io.BytesIO(raw), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("a locked PDF", where=url, mend="give one without a password")
        described = reader.metadata or {}
        document.title = str(described.get("/Title") or "").strip() or document.title
        made = str(described.get("/CreationDate") or "")
        document.date = (
            f"{made[2:6]}-{made[6:8]}-{made[8:10]}" if made.startswith("D:") and len(made) >= 10 else ""
        )
        size = 0
        for number, page in enumerate(reader.pages[:PAGES], 1):
            text = page.extract_text() or ""
            if not text.strip():
                text = _scanned(page, document, number)
            size += len(text)
            if size > LARGEST_TEXT:
                document.warnings.append(f"the text after page {number} is left out: too long")
                break
            document.pieces += [Piece(block, f"page {number}") for block in paragraphs(text)]
    return [document]


def _scanned(page: object, document: Document, number: int) -> str:
    """Text of a page that is a picture, where an OCR is installed; a warning where it is not."""
    from noria.reports.integrations.ocr import read_picture

    texts = []
    for image in getattr(page, "images", []):
        try:
            texts.append(read_picture(image.data, f"{document.url}, page {number}"))
        except MissingExtra as error:
            document.warnings.append(f"page {number} is a picture, and is not read: {error}")
            return ""
        except DataError as error:
            document.warnings.append(f"a picture of page {number} is not read: {error}")
    return "\n\n".join(texts)


def read_docx(raw: bytes, url: str) -> list[Document]:
    """Read a Word document: headings, paragraphs, tables."""
    check_zip(raw, url)
    docx = require("docx", "reports")
    with decoding(Path(url), "a Word document"):
        file = docx.Document(io.BytesIO(raw))
        document = Document(url, file.core_properties.title or Path(url).stem, origin=raw)
        headings: list[tuple[int, str]] = []
        for paragraph in file.paragraphs:
            text, style = paragraph.text.strip(), paragraph.style.name or ""
            if not text:
                continue
            if style.startswith("Heading") and style[8:].isdigit():
                level = int(style[8:])
                headings = [(deep, name) for deep, name in headings if deep < level] + [(level, text)]
            else:
                document.pieces.append(Piece(text, " > ".join(name for _, name in headings)))
        documents = [document]
        for number, table in enumerate(file.tables, 1):
            spans = [sum(cell.grid_span for cell in row.tc_lst) for row in table._tbl.tr_lst]
            # A cell's span is a number that anybody may write.
            check_size(len(spans), max(spans, default=0), f"{url}: table {number}")
            rows = [[cell.text for cell in row.cells] for row in table.rows]
            if len(rows) > 1:
                made = Table.of(rows[0], rows[1:], url)
                documents.append(
                    Document(
                        f"{url}#table-{number}", f"{document.title}, table {number}", table=made, origin=raw
                    )
                )
    return documents


def read_xlsx(raw: bytes, url: str) -> list[Document]:
    """Read the sheets of an Excel file, values and not formulas; a sheet's first full row is its head."""
    check_zip(raw, url)
    openpyxl = require("openpyxl", "reports")
    documents = []
    with decoding(Path(url), "an Excel file"):
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
        for sheet in book.worksheets:
            rows: list[list[object]] = []
            for row in sheet.iter_rows(values_only=True):
                if any(cell is not None for cell in row):
                    rows.append(list(row))
                    check_size(len(rows) - 1, len(row), f"{url}: {sheet.title}")
            if len(rows) > 1:
                table = Table.of(rows[0], rows[1:], url)
                documents.append(
                    Document(
                        f"{url}#{sheet.title}", f"{Path(url).stem}: {sheet.title}", table=table, origin=raw
                    )
                )
    return documents


def read_pptx(raw: bytes, url: str) -> list[Document]:
    """Read the text of a presentation, slide by slide."""
    check_zip(raw, url)
    pptx = require("pptx", "reports")
    with decoding(Path(url), "a PowerPoint file"):
        file = pptx.Presentation(io.BytesIO(raw))
        document = Document(url, file.core_properties.title or Path(url).stem, origin=raw)
        for number, slide in enumerate(file.slides, 1):
            for shape in slide.shapes:
                if shape.has_text_frame and shape.text_frame.text.strip():
                    document.pieces.append(Piece(" ".join(shape.text_frame.text.split()), f"slide {number}"))
    return [document]
