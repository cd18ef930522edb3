"""An update of the catalogue by a feed: what it may do, and the pictures that it brings."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

from noria.assistant.products.catalogue import Catalogue, Changes
from noria.assistant.products.config import UpdateConfig
from noria.assistant.products.features import LayoutEncoder
from noria.assistant.products.feeds import FeedReading, read_feed
from noria.assistant.products.product import Product
from noria.core.errors import DataError, NoriaError, needing
from noria.core.files import inside, read_bytes
from noria.core.picture_files import open_picture

MOST_SHRINKING = 0.5
"""Share of a feed's products that one update may remove; a feed that was cut off removes more."""
MOST_BAD = 0.5
"""Share of a feed's rows that may be no product."""
THUMBNAIL = 320
"""Longest side of a thumbnail in pixels."""
_AT_ONCE = 64


@dataclass
class FeedUpdate:
    """Outcome of an update by a feed.

    Attributes:
        changes: products that were added, changed, left as they were, and removed.
        reading: rows of the feed, and what is wrong with some of them.
        pictures: pictures that were read.
        missing: pictures that could not be read, with the reason of the first ones.
        missing_count: number of pictures that could not be read.
    """

    changes: Changes
    reading: FeedReading
    pictures: int = 0
    missing: list[str] = field(default_factory=list)
    missing_count: int = 0


@dataclass(frozen=True)
class FeedContent:
    """A feed that was read and can be taken in.

    Attributes:
        path: file of the feed; pictures are found beside it.
        products: products of the feed.
        reading: rows of the feed, and what is wrong with some of them.
    """

    path: Path
    products: list[Product]
    reading: FeedReading


def checked_feed(path: Path) -> FeedContent:
    """Read a feed, before anything is changed.

    Raises:
        DataError: the feed is damaged or empty, or half of it is no product.
    """
    reading = FeedReading()
    products = list(read_feed(path, reading))
    if not products or reading.bad > MOST_BAD * reading.rows:
        first = f": {reading.problems[0]}" if reading.problems else ""
        raise DataError(f"{reading.bad} of {reading.rows} rows are no product{first}", where=str(path))
    return FeedContent(Path(path), products, reading)


def update_feed(
    catalogue: Catalogue,
    name: str,
    content: FeedContent,
    config: UpdateConfig | None = None,
    *,
    mark: str = "",
    seen: Callable[[int], None] = lambda count: None,
) -> FeedUpdate:
    """Take in a feed, and read the pictures that are new.

    Args:
        catalogue: catalogue that is updated.
        name: name of the feed.
        content: the feed.
        config: what the update may do; the defaults if None.
        mark: what is noted of the feed's version.
        seen: hears the number of pictures so far.

    Raises:
        DataError: it would remove too much, or names a product of another feed.
    """
    config, products = config or UpdateConfig(), content.products
    listed = catalogue.listed(name)
    if not (config.partial or config.shrink) and listed and len(products) < (1 - MOST_SHRINKING) * listed:
        raise DataError(
            f"the feed has {len(products)} products, and the catalogue {listed} of it",
            where=str(content.path),
            mend="if that is right, allow it once by noria assistant products --shrink",
        )
    state = {"file": str(content.path.resolve()), "mark": mark, "bad": content.reading.bad}
    update = FeedUpdate(catalogue.update(name, products, state, whole=not config.partial), content.reading)
    read_pictures(catalogue, name, content.path.parent, update, config.fetch_pictures, seen)
    return update


def read_pictures(
    catalogue: Catalogue,
    name: str,
    folder: Path,
    update: FeedUpdate,
    fetch: bool,
    seen: Callable[[int], None] = lambda count: None,
) -> None:
    """Read the pictures of a feed that are not read yet, and count them and those that cannot be read.

    Args:
        catalogue: catalogue that is updated.
        name: name of the feed.
        folder: folder beside whose files the pictures are.
        update: outcome that is added to.
        fetch: whether addresses are fetched; without it they are left out.
        seen: hears the number of pictures so far.
    """
    encoder = LayoutEncoder()
    due = [one for one in catalogue.pictures_due(encoder.name, name) if fetch or not _is_address(one[1])]
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(due), _AT_ONCE):
            batch = due[start : start + _AT_ONCE]
            contents = pool.map(lambda one: _content(folder, one[1]), batch)
            kept = []
            for (number, source), content in zip(batch, contents, strict=True):
                try:
                    if isinstance(content, NoriaError):
                        raise content
                    kept.append((number, source, *_small(content, source)))
                except NoriaError as error:
                    update.missing_count += 1
                    if len(update.missing) < 20:
                        update.missing.append(f"{number}: {error}")
            features = encoder.encode([picture for *_, picture in kept])
            catalogue.put_pictures(
                encoder.name,
                [
                    (number, source, thumb, row)
                    for (number, source, thumb, _), row in zip(kept, features, strict=True)
                ],
            )
            update.pictures += len(kept)
            seen(update.pictures)


def _content(folder: Path, source: str) -> bytes | NoriaError:
    try:
        if not _is_address(source):
            return read_bytes(inside(folder, source), limit=32 << 20)
        with needing("serve"):
            import httpx2
        from noria.core.fetching import fetch

        with httpx2.Client(timeout=20, follow_redirects=False) as client:
            return fetch(source, client=client)[2]
    except NoriaError as error:
        return error


def _small(content: bytes, source: str) -> tuple[bytes, Image.Image]:
    """The thumbnail of a picture as WebP, and the picture at that size."""
    picture = open_picture(content, where=source[:200], animated=True)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "WEBP", quality=82, method=4)
    return file.getvalue(), picture


def _is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))
