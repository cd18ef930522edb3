"""Pictures as they come: every kind is opened, or refused in one line; registration and masks are exact."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noria.core import picture_files
from noria.core.errors import DataError
from noria.core.picture_files import open_picture, png
from noria.editing.data.lines import Lines
from noria.editing.data.pictures import Scene, changed_share, open_mask
from noria.editing.data.registration import register
from noria.editing.data.tasks import read_tasks, task_from_json, write_tasks
from noria.editing.types import EditorError
from tests.editing.doubles import square


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def test_every_mode_comes_out_as_rgb() -> None:
    red = Image.new("RGB", (4, 3), (200, 0, 0))
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        opened = open_picture(encoded(red.convert(mode)))
        assert (opened.mode, opened.size) == ("RGB", (4, 3))
    inks = open_picture(encoded(red.convert("CMYK"), "JPEG"))
    pixel: Any = inks.getpixel((1, 1))
    assert inks.mode == "RGB"
    assert pixel[0] > 150
    assert pixel[1] < 60
    deep = Image.fromarray(np.full((2, 2), 257 * 128, dtype=np.uint16))
    assert open_picture(encoded(deep)).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert open_picture(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_an_exif_orientation_is_turned_upright() -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    assert open_picture(encoded(image, "JPEG", exif=exif)).size == (10, 20)


def bomb() -> bytes:
    """A PNG whose header says 20000 × 10000 pixels."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (encoded(square())[:120], "no picture that can be read"),
        (bomb(), "pixels are more than"),
        (encoded(square(), "GIF", save_all=True, append_images=[square("blue")]), "animated"),
        (b"not a picture", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
    ],
    ids=["cut", "bomb", "animated", "text", "empty", "svg"],
)
def test_what_is_no_picture_is_one_line(content: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        open_picture(content)


def test_the_bound_on_pixels_holds_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "MOST_PIXELS", 100)
    with pytest.raises(DataError, match="scale it down"):
        open_picture(encoded(Image.new("RGB", (11, 10))))
    assert open_picture(encoded(Image.new("RGB", (10, 10)))).size == (10, 10)


def test_a_mask_is_open_where_it_is_transparent_or_white() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    assert list(open_mask(encoded(clear), (2, 1)).tobytes()) == [0, 255]
    grey = Image.new("L", (2, 1))
    grey.putpixel((0, 0), 255)
    assert list(open_mask(encoded(grey), (2, 1)).tobytes()) == [255, 0]
    with pytest.raises(DataError, match="same size"):
        open_mask(encoded(grey), (3, 1))


# -- registration -----------------------------------------------------------------------------------------------------


def textured(size: tuple[int, int] = (320, 240)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_a_shift_is_found_and_taken_back() -> None:
    source = textured()
    moved = Image.new("RGB", source.size)
    moved.paste(source, (6, -4))
    result = register(source, moved)
    assert result.dx == pytest.approx(-6, abs=1.0)
    assert result.dy == pytest.approx(4, abs=1.0)
    inner = (20, 20, 300, 220)
    before = changed_share(source.crop(inner), moved.crop(inner))
    assert changed_share(source.crop(inner), result.image.crop(inner)) < before / 3


def test_a_picture_in_its_place_is_not_moved_and_no_bit_of_it_changes() -> None:
    source = textured()
    edited = source.copy()
    edited.paste((255, 0, 0), (100, 80, 160, 140))
    result = register(source, edited)
    assert not result.moved
    assert result.image.tobytes() == edited.tobytes()


def test_another_size_is_resized_and_another_shape_refused() -> None:
    source = textured()
    assert register(source, source.resize((352, 256))).image.size == source.size
    with pytest.raises(EditorError) as raised:
        register(source, source.resize((240, 320)))
    assert raised.value.kind == "size"


def test_a_scene_has_pictures_and_a_mask_of_their_size() -> None:
    with pytest.raises(DataError):
        Scene(())
    with pytest.raises(DataError, match="differ in size"):
        Scene((square(),), Image.new("L", (3, 3)))
    one, other = Scene((square(),)), Scene((square("blue"),))
    assert one.digests != other.digests
    assert one.digests == Scene((square(),)).digests


# -- tasks and lines --------------------------------------------------------------------------------------------------


def test_tasks_come_back_from_their_file(tmp_path: Path) -> None:
    entry = {
        "id": "a/../b",
        "category": {"bench_like": "rise.temporal", "leaf": "material_progression"},
        "image": "a.png",
        "instruction": "Wie sieht das nach einer Nacht im Regen aus? 🌧",
        "reference": {"outcome": "wet", "must_change": ["wet"], "must_keep": [], "why": "", "forbidden": []},
        "checklist": {"version": 1, "cognitive": [{"id": "c", "dim": "intent", "question": "wet?"}], "visual": []},
        "difficulty": {"k": 8, "p_cog": 0.5, "p_vis": None, "s_cog": 0.1, "s_vis": None, "oracle_vis": 1.0,
                       "bucket": "hard"},
        "provenance": {"licence": "CC0"},
        "mine": [1, 2],
    }  # fmt: skip
    task = task_from_json(entry)
    write_tasks(tmp_path / "tasks.jsonl", [task])
    assert read_tasks(tmp_path / "tasks.jsonl") == [task]
    assert task.to_json() == entry
    assert task.family == "rise.temporal"


@pytest.mark.parametrize(
    "entry",
    [{}, {"id": "a"}, {"id": "a", "instruction": "x"}, {"id": "a", "instruction": "x", "image": 3},
     {"id": True, "instruction": "x", "image": "a"}, {"id": "a", "instruction": "x", "image": "a", "reference": 3}],
    ids=["empty", "no-words", "no-image", "number", "truth", "reference"],
)  # fmt: skip
def test_a_malformed_task_names_its_line(entry: Any) -> None:
    with pytest.raises(DataError, match=r"tasks.jsonl:7"):
        task_from_json(entry, where="tasks.jsonl:7")


def test_a_torn_line_is_cut_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Lines(path) as lines:
        lines.add({"id": "a", "value": 1})
        lines.add({"id": "b", "value": float("nan")})
    path.write_bytes(path.read_bytes() + b'{"id": "c", "val')
    with Lines(path) as lines:
        assert lines.records == {"a": {"id": "a", "value": 1}, "b": {"id": "b", "value": None}}
        lines.add({"id": "c", "value": 2})
    with Lines(path) as lines:
        assert lines.records["c"] == {"id": "c", "value": 2}


def test_png_keeps_every_bit() -> None:
    image = textured()
    assert open_picture(png(image)).tobytes() == image.tobytes()
