"""Modules of scripts/, which are in no package."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@contextmanager
def script(name):
    """Import scripts/name.py, and forget it and what it imports from there afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module(name)
        own = {module.stem for module in SCRIPTS.glob("*.py")}
        for loaded in own & (set(sys.modules) - before):
            del sys.modules[loaded]
