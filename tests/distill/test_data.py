from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.core.errors import ConfigError, DataError, MissingExtra, install_command
from noria.distill.data.images import ImageSet, digits
from noria.distill.data.mnist import mnist
from noria.distill.data.prompts import Prompts, read_prompts

REAL_MNIST = Path(__file__).parents[2] / ".data" / "mnist"


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path, **caps: int) -> str:
    with pytest.raises(DataError) as error:
        read_prompts(path, **caps)
    line = str(error.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line.removeprefix(str(path))


# --- lines --------------------------------------------------------------------------------------------------


def test_a_prompt_a_line_in_order_without_blanks_and_repetitions(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path, "a.txt", "a cat\r\n\n  a dog \n \t\na cat\n\u00a0\nun été\n"))
    assert prompts.texts == ("a cat", "a dog", "un été")
    assert (prompts.duplicates, prompts.blank, len(prompts)) == (1, 3, 3)
    assert prompts.source == str(tmp_path / "a.txt")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_a_newline_ends_a_line(tmp_path: Path, mark: str) -> None:
    assert read_prompts(write(tmp_path, "a.txt", f"one{mark}line\ntwo")).texts == (f"one{mark}line", "two")
    json_line = json.dumps({"prompt": f"one{mark}line"}, ensure_ascii=False)
    if mark > "\x20":  # JSON wants the others escaped
        assert read_prompts(write(tmp_path, "a.jsonl", json_line)).texts == (f"one{mark}line",)


@given(st.lists(st.text(st.characters(exclude_characters="\n\0", codec="utf-8")), min_size=1))
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("prompts")
    expected = tuple(dict.fromkeys(s for t in texts if not (s := t.strip(" \t\r\v\f")).isspace() and s))
    lines = write(folder, "a.txt", "\n".join(texts).encode())
    objects = write(folder, "a.jsonl", "\n".join(json.dumps({"prompt": t}) for t in texts))
    for path in (lines, objects):
        if expected:
            assert read_prompts(path).texts == expected
        else:
            assert "no prompts" in complaint(path)


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, "a.txt", b"\xef\xbb\xbfa cat\n")).texts == ("a cat",)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", " \n\u2003"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_without_prompts_is_an_error(tmp_path: Path, content: str, name: str) -> None:
    if name == "a.jsonl" and "\u2003" in content:
        content = '{"prompt": "\u2003"}'
    assert complaint(write(tmp_path, name, content)) == ": no prompts; give at least one line with a prompt"


@pytest.mark.parametrize(
    ("content", "where", "byte"),
    [
        (b"good\nbad \xff\n", 2, "byte 5 of the line is 0xff (invalid start byte)"),
        ("caf\u00e9".encode("latin-1"), 1, "byte 4 of the line is 0xe9 (unexpected end of data)"),
        (
            b"a\n\nb \xed\xa0\x80",
            3,
            "byte 3 of the line is 0xed (invalid continuation byte)",
        ),  # a lone surrogate
    ],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path: Path, content: bytes, where: int, byte: str) -> None:
    for name in ("a.txt", "a.jsonl"):
        body = (
            content if name == "a.txt" else content.replace(b"good", b'{"text": "x"}').replace(b"a\n", b"\n")
        )
        line = complaint(write(tmp_path, name, body))
        assert line == f":{where}: not UTF-8: {byte}; save the file as UTF-8"


def test_utf16_is_named(tmp_path: Path) -> None:
    line = complaint(write(tmp_path, "a.txt", "prompt\n".encode("utf-16")))
    assert line == ":1: not text in UTF-8 but UTF-16; save the file as UTF-8"


def test_utf16_without_a_mark_is_not_taken_for_text(tmp_path: Path) -> None:
    assert complaint(write(tmp_path, "a.txt", "ab\n".encode("utf-16-le"))).startswith(
        ":1: a NUL character at position 2"
    )


def test_caps_on_a_prompt_and_on_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "short\n" + "x" * 50 + "\n")
    assert complaint(path, max_characters=49) == ":2: a prompt of 50 characters; at most 49 are let in"
    assert complaint(path, max_bytes=56) == ": larger than 56 bytes; split the file"
    assert len(read_prompts(path, max_characters=50, max_bytes=57)) == 2


def test_a_device_that_never_ends_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.txt"
    path.symlink_to("/dev/zero")
    assert complaint(path) == ": a pipe or a device; save it as a file"


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.txt") == ": cannot be read (No such file or directory)"
    (tmp_path / "folder.txt").mkdir()
    assert complaint(tmp_path / "folder.txt") == ": a folder; give a file"
    assert complaint(write(tmp_path, "a.csv", "x")).endswith("give one of .txt, .jsonl, .parquet")
    assert "'without a suffix'" in complaint(write(tmp_path, "prompts", "x"))


# --- JSON lines ---------------------------------------------------------------------------------------------


def test_json_lines_take_prompt_text_or_caption(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "prompt": "one", "text": "not me"}',
        "",
        '{"text": "two\\nlines"}',
        '{"caption": " three "}',
        '{"prompt": "one"}',
        '{"prompt": ""}',
    ]
    prompts = read_prompts(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert prompts.texts == ("one", "two\nlines", "three")
    assert (prompts.duplicates, prompts.blank) == (1, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "not JSON: Expecting ',' delimiter at character 15"),
        ('"a cat"', 'not a JSON object; write {"prompt": "..."}'),
        ('{"title": "a", "id": 3}', "no field prompt or text or caption (there is 'title', 'id'); write"),
        ("{}", "no field prompt or text or caption (there is nothing); write"),
        ('{"prompt": ["a"]}', "the field 'prompt' is not text but list"),
        ('{"prompt": null}', "the field 'prompt' is not text but NoneType"),
        ('{"prompt": "x\\ud800"}', "half of a surrogate pair, which is no character; take it out"),
        ('{"prompt": ' + "[" * 200_000, "nested more than 100 deep"),
        ('{"prompt": ' + "1" * 5000 + "}", "a number of more than 300 digits"),
    ],
)
def test_json_lines_that_hold_no_prompt_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, "a.jsonl", '{"prompt": "fine"}\n' + line + "\n")
    assert complaint(path).startswith(f":2: {message}")


# --- Parquet ------------------------------------------------------------------------------------------------


def test_parquet_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=re.escape(install_command("parquet"))):
        read_prompts(write(tmp_path, "a.parquet", b""))


def test_parquet_columns_are_read_and_checked_like_lines(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(name: str, **columns: Any) -> Path:
        parquet.write_table(arrow.table(columns), tmp_path / name, row_group_size=3)
        return tmp_path / name

    many = [f"prompt {i % 6000}" for i in range(10_000)]
    prompts = read_prompts(table("a.parquet", id=list(range(10_000)), text=many))
    assert prompts.texts == tuple(many[:6000])
    assert prompts.duplicates == 4000
    assert read_prompts(table("b.parquet", caption=["x\u2028y", " "])).texts == ("x\u2028y",)
    assert complaint(table("c.parquet", title=["x"])).startswith(
        ": no column prompt or text or caption (there is 'title')"
    )
    assert complaint(table("d.parquet", prompt=[1])) == ": the column 'prompt' is not text but int64"
    assert complaint(table("e.parquet", prompt=["a", None])) == ": row 2: the column 'prompt' is null"
    assert complaint(table("f.parquet", prompt=["a", "b" * 9]), max_characters=8).startswith(
        ": row 2: a prompt of 9"
    )
    assert "no prompts" in complaint(table("g.parquet", prompt=arrow.array([], arrow.string())))
    big = table("h.parquet", prompt=["y" * 9000 + str(i) for i in range(20)])
    assert big.stat().st_size < 20_000
    assert "more than 50,000 bytes of prompts" in complaint(big, max_bytes=50_000)
    assert "not a Parquet file" in complaint(write(tmp_path, "i.parquet", b"PAR1 nothing"))
    assert "not a Parquet file" in complaint(tmp_path / "none.parquet")


# --- batches ------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**64 - 1))
def test_the_batches_are_epochs_and_an_epoch_has_every_prompt_once(
    count: int, batch_size: int, seed: int
) -> None:
    prompts = Prompts(tuple(str(i) for i in range(count)))
    batches = [prompts.batch(seed, i, batch_size) for i in range(3 * count // batch_size + 2)]
    assert {len(batch) for batch in batches} == {batch_size}
    stream = [text for batch in batches for text in batch]
    for epoch in range(len(stream) // count):
        assert Counter(stream[epoch * count : (epoch + 1) * count]) == Counter(prompts.texts)


def test_a_batch_depends_on_nothing_but_its_arguments() -> None:
    prompts = Prompts(tuple(str(i) for i in range(50)))
    there = [prompts.batch(3, i, 7) for i in range(30)]
    back = [Prompts(prompts.texts).batch(3, i, 7) for i in reversed(range(30))][::-1]
    assert there == back
    assert there != [prompts.batch(4, i, 7) for i in range(30)]
    assert prompts.batch(3, 0, 50) != prompts.batch(3, 1, 50)


def test_the_order_is_the_same_on_every_machine_and_release() -> None:
    # Philox's raw bits are a fixed standard (Salmon et al. 2011), so this list may never change: runs resume by it.
    assert Prompts(tuple("abcdefgh")).batch(7, 0, 12) == list("cfhbdeagcaeb")


def test_every_prompt_is_as_likely_at_every_place() -> None:
    prompts = Prompts(tuple("abcd"))
    first = Counter(prompts.batch(seed, 0, 4)[0] for seed in range(2000))
    assert all(abs(n - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for n in first.values())


def test_a_far_iteration_is_as_quick_as_the_first() -> None:
    assert len(Prompts(tuple("abc")).batch(0, 10**15, 5)) == 5


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (2**64, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_a_batch_that_cannot_be(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError):
        Prompts(("a",)).batch(*arguments)


# --- images -------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    data = digits()
    assert data.images.shape == (1797, 1, 8, 8)
    assert (data.images.min(), data.images.max()) == (-1, 1)
    assert len(np.unique(data.images)) == 17
    assert Counter(data.labels.tolist())[3] == 183
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal((data.images[:, 0] + 1) * 8, load_digits().images)


def test_the_split_is_deterministic_disjoint_whole_and_even_over_classes() -> None:
    data = digits()
    train, held = data.split()
    assert (len(train) + len(held), train.name, held.name) == (1797, "digits, train", "digits, held out")
    shares = np.bincount(held.labels) / np.bincount(data.labels)
    assert (abs(shares - 0.2) < 0.005).all()
    together = np.concatenate([train.images, held.images]).reshape(1797, -1)
    assert Counter(map(bytes, together)) == Counter(map(bytes, data.images.reshape(1797, -1)))
    again = digits().split()
    np.testing.assert_array_equal(again[1].images, held.images)
    assert len(data.split(0.5)[1]) == pytest.approx(1797 / 2, abs=5)


def test_the_split_is_the_same_in_another_process() -> None:
    script = "from noria.distill.data.images import digits; print(digits().split()[1].images.tobytes().hex()[:20000])"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digits().split()[1].images.tobytes().hex()[:20000]


def image_set(**changes: Any) -> ImageSet:
    values: dict[str, Any] = {
        "images": np.zeros((4, 1, 2, 2), np.float32),
        "labels": np.array([0, 0, 1, 1]),
        "classes": 2,
        "name": "tiny",
        "licence": "none",
    }
    return ImageSet(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": np.zeros((4, 2, 2), np.float32)},
            "tiny: images are float32 [n, channels, height, width], not float32",
        ),
        ({"images": np.zeros((4, 1, 2, 2))}, "not float64 (4, 1, 2, 2)"),
        ({"images": np.zeros((0, 1, 2, 2), np.float32)}, "not float32 (0, 1, 2, 2)"),
        ({"images": np.full((4, 1, 2, 2), 1.5, np.float32)}, "images leave [-1, 1]"),
        ({"images": np.full((4, 1, 2, 2), np.nan, np.float32)}, "images leave [-1, 1]"),
        ({"labels": np.array([0, 1])}, "labels are int64 [4], not int64 (2,)"),
        ({"labels": np.zeros(4)}, "labels are int64 [4], not float64 (4,)"),
        ({"labels": np.array([0, 1, 2, 0])}, "labels leave 0 to 1"),
        ({"labels": np.array([0, -1, 1, 0])}, "labels leave 0 to 1"),
    ],
)
def test_an_image_set_that_is_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        image_set(**changes)
    assert message in str(error.value)


def test_a_balanced_set_has_as_many_of_each_class_as_the_rarest() -> None:
    data = digits()
    even = data.balanced()
    assert np.bincount(even.labels).tolist() == [174] * 10
    assert even.name == "digits, balanced"
    assert {image.tobytes() for image in even.images} <= {image.tobytes() for image in data.images}
    np.testing.assert_array_equal(even.images, digits().balanced().images)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 1 has one image"):
        image_set(labels=np.array([0, 0, 0, 1])).split()
    with pytest.raises(ConfigError, match="held_out"):
        image_set().split(1.0)
    train, held = image_set().split(0.01)
    assert (len(train), len(held)) == (2, 2)


# --- MNIST --------------------------------------------------------------------------------------------------


def digit_file(number: int, count: int = 2) -> bytes:
    """Images of one digit as the npm package writes them: image i is i thousandths, its own number in pixel 5."""
    images = []
    for i in range(count):
        image = [i / 1000] * 784
        image[5] = number / 10
        images += image
    return json.dumps({"data": images}).encode()


def package(folder: Path, inner: str = "src/digits", skip: Sequence[int] = ()) -> Path:
    (folder / inner).mkdir(parents=True, exist_ok=True)
    for number in range(10):
        if number not in skip:
            (folder / inner / f"{number}.json").write_bytes(digit_file(number, 2 + number % 2))
    return folder


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def archive_members(count: int = 10) -> dict[str, bytes]:
    return {f"package/src/digits/{n}.json": digit_file(n, 2 + n % 2) for n in range(count)}


def check_fake(data: ImageSet) -> None:
    assert data.images.shape == (25, 1, 28, 28)
    assert data.labels.tolist() == [n for n in range(10) for _ in range(2 + n % 2)]
    np.testing.assert_allclose(data.images[:, 0, 0, 5], data.labels / 5 - 1, atol=1e-6)
    np.testing.assert_allclose(data.images[1, 0, 27, 27], 0.001 * 2 - 1)


@pytest.mark.parametrize("inner", [".", "digits", "src/digits", "package/src/digits"])
def test_mnist_is_found_in_a_folder_a_package_and_an_unpacked_archive(tmp_path: Path, inner: str) -> None:
    check_fake(mnist(package(tmp_path, inner)))


def test_mnist_is_read_out_of_the_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "mnist-1.1.0.tgz", {"package/README.md": b"x", **archive_members()})
    check_fake(mnist(path))
    check_fake(mnist(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mnist-1.1.0.tgz"]


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_absent_mnist_says_what_fetches_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        mnist(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: no MNIST digits here; fetch it with: make data"


def test_incomplete_mnist_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder has no 3\.json, 7\.json; fetch it with: make data"):
        mnist(package(tmp_path, skip=(3, 7)))
    with pytest.raises(DataError, match=r"the archive has no 9\.json"):
        mnist(archive(tmp_path / "mnist-1.1.0.tgz", archive_members(9)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"data": [0, 0', "not JSON"),
        (b'{"data": "\xff"}', "not UTF-8"),
        (b'{"datum": []}', "KeyError"),
        (b"[1]", "TypeError"),
        (b'{"data": [[1], [1, 2]]}', "ValueError"),
        (b'{"data": []}', "28 × 28"),
        (b'{"data": 5}', "28 × 28"),
        (json.dumps({"data": [0] * 785}).encode(), "28 × 28"),
        (json.dumps({"data": ["0.5"] * 784}).encode(), "28 × 28"),
        (json.dumps({"data": [None] * 784}).encode(), "28 × 28"),
        (json.dumps({"data": [2] * 784}).encode(), "grey levels leave"),
        (json.dumps({"data": [float("nan")] * 784}).encode(), "grey levels leave"),
    ],
)
def test_a_damaged_digit_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (package(tmp_path, ".") / "4.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        mnist(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: 4.json:")


def test_an_archive_that_is_none_cut_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(tmp_path / "a.tgz", archive_members()).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 :] = b"\x55" * (len(whole) - len(whole) // 2)
    for content in (b"not an archive", whole[: len(whole) // 2], bytes(damaged), b""):
        with pytest.raises(DataError, match="archive"):
            mnist(write(tmp_path, "b.tgz", content))
    monkeypatch.setattr("noria.distill.data.mnist._MNIST_BYTES", 500)
    with pytest.raises(DataError, match="larger inside"):
        mnist(tmp_path / "a.tgz")


def test_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret.json", digit_file(0))
    with tarfile.open(tmp_path / "mnist-1.1.0.tgz", "w:gz") as tar:
        for number in range(10):
            link = tarfile.TarInfo(f"package/src/digits/{number}.json")
            link.type, link.linkname = tarfile.SYMTYPE, str(secret)
            tar.addfile(link)
    with pytest.raises(DataError, match=r"the archive has no 0\.json"):
        mnist(tmp_path)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="real MNIST is not here (make data)")
def test_real_mnist_has_ten_thousand_digits_and_looks_like_it() -> None:
    data = mnist(REAL_MNIST)
    assert np.bincount(data.labels).tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    ink = (data.images + 1) / 2
    assert 0.12 < ink.mean() < 0.14  # LeCun's training set: 0.1307
    assert 0.30 < ink.std() < 0.32  # 0.3081
    assert ink[:, :, [0, -1]].mean() < 0.001
