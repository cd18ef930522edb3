"""Names that bring their module when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_name_brings_its_module_and_nothing_comes_before() -> None:
    code = (
        "import sys, noria.blending as b\n"
        "assert 'numpy' not in sys.modules and 'noria.blending.plans.plans' not in sys.modules\n"
        "assert 'Plans' in dir(b)\n"
        "first = b.Plans\n"
        "assert 'noria.blending.plans.plans' in sys.modules and b.__dict__['Plans'] is first\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_name_is_an_attribute_error() -> None:
    import noria.blending

    with pytest.raises(AttributeError, match=r"noria\.blending.*'nothing'"):
        noria.blending.nothing  # noqa: B018
