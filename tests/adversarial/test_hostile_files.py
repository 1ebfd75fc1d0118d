"""Hostile results and baselines: no traceback, no hang, nothing written elsewhere.

Hostile model folders, tokenizers and GGUF files are in test_model_folders.py and
test_gguf_files.py.
"""

import os

import pytest

from helpers import runs
from helpers.hostile_results import ITEMS, RECORDS, ZIPS
from helpers.limits import limits

KINDS = {
    "record": (("check", "hostile"), RECORDS),
    "items": (("merge", "hostile", "--results", "out"), ITEMS),
    "zip": (("gate", "--baseline", "hostile/b.zip", "--results", "hostile/r"), ZIPS),
}


def cases():
    """Yield a command with what it reads. The first two of each kind run by default."""
    for kind, (command, table) in KINDS.items():
        for number, (name, write) in enumerate(table.items()):
            marks = pytest.mark.full if number > 1 else ()
            yield pytest.param(command, write, id=f"{kind}: {name}", marks=marks)


def state(root):
    """Return every path with its size and time, without those that commands may write."""
    out = {}
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in ("cache", "out")]
        for name in files:
            about = os.lstat(os.path.join(folder, name))
            out[folder, name] = about.st_size, about.st_mtime_ns
    return out


@pytest.mark.parametrize(("command", "write"), list(cases()))
def test_a_hostile_file_is_a_sentence(tmp_path, cli, monkeypatch, command, write):
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "secret").write_text("secret")
    monkeypatch.chdir(here)
    runs.own_cache(tmp_path, monkeypatch)
    write(here / "hostile")
    before = state(tmp_path)

    with limits(20, 2 * 10**9):
        code, out, err = cli(*command)

    assert code in (1, 2) and "bench: " in err, out + err
    assert "Traceback" not in out + err
    assert state(tmp_path) == before
