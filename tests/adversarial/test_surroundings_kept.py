"""Plug-ins whose import changes the process: other rows keep their numbers, and results their
place."""

import hashlib
import json
import locale
import os
import random
import sys

import numpy
import pytest
import torch

from bench.system import surroundings
from helpers import plugins, runs

CHANGES = {
    "environment": "os.environ['OMP_NUM_THREADS'] = '7'; os.environ.pop('HF_ENDPOINT', None)",
    "folder": "os.chdir('/')",
    "locale": "locale.setlocale(locale.LC_ALL, 'C')",
    "json": "json.dumps = lambda *_, **__: '{}'; json.JSONEncoder.default = lambda *_: 7",
    "digests": "hashlib.sha256 = hashlib.md5",
    "search path": "sys.path[:] = ['elsewhere']",
    "generators": "random.seed(7); numpy.random.seed(7); torch.manual_seed(7)",
    "torch": "torch.set_num_threads(3); torch.set_default_dtype(torch.float64)",
}
IMPORTS = """
import hashlib, json, locale, os, random, sys
import numpy, torch
"""


def state():
    return (
        dict(os.environ), os.getcwd(), locale.setlocale(locale.LC_ALL), json.dumps([0.1]),
        json.JSONEncoder.default, random.getstate(), numpy.random.get_state()[1].tolist(),
        hashlib.sha256, set(sys.path) - {"elsewhere"},
        torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(),
    )  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_put_back(name):
    before = state()
    with surroundings.kept():
        exec(IMPORTS + CHANGES[name], {})
    assert state() == before


@pytest.fixture
def site(tmp_path, monkeypatch):
    changing = IMPORTS + "\n".join(CHANGES.values()) + "\n"
    changing += "os.environ.pop('PATH', None)\n"
    folder = plugins.install(tmp_path / "site", "meddles", {"meddles": "pass"}, None, changing)
    read = 'return Readings((Reading("meddled", 1.0, "1", ""),))'
    plugins.install(folder, "probes", {"probes": read}, None, changing, kind="measures")
    yield from runs.world(folder, tmp_path, monkeypatch)


@pytest.mark.usefixtures("site")
def test_a_row_is_the_same_with_a_plug_in_and_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"methods": ("wanda",), "measures": ("perplexity", "size")}
    runs.run_here(runs.small(tmp_path / "alone", **asked))
    (tmp_path / "cache/artifacts").rename(tmp_path / "artifacts of the first")
    with_them = {"methods": ("meddles", "wanda"), "measures": ("probes", "perplexity", "size")}
    for name in ("meddles", "probes"):
        sys.modules.pop(name, None)
    runs.forget()
    runs.run_here(runs.small("together", **with_them))

    alone, together = runs.contents(tmp_path / "alone"), runs.contents(tmp_path / "together")
    assert len(alone) == 6 and len(together) == 12
    assert {key: together[key] for key in alone} == alone
