"""Hostile files under 2 GB of address space: no traceback, no hang, nothing written elsewhere."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from helpers import runs
from helpers.forked_commands import Commands
from helpers.hostile_inputs import GGUF, SAFETENSORS, TOKENIZERS, Case
from helpers.hostile_results import ITEMS, RECORDS, ZIPS
from helpers.installed import with_commands


class Kind(NamedTuple):
    """Cases of one kind of file, and the commands that read it."""

    commands: tuple[str, ...]
    cases: Mapping[str, Case]
    harmless: tuple[str, ...] = ()
    """Cases that a command may accept."""


READING = ("check {}", "gate --baseline {} --results {}", "merge {} --results out/m")
KINDS: dict[str, Kind] = {
    "records": Kind(
        (*READING, "report --results {} --out out/page", "baseline set x --results {} --dir out",
         "history --results {}", "pick --model tiny --results {}"),
        RECORDS, ("provenance 1",),
    ),
    "items": Kind(READING, ITEMS),
    "zips": Kind(
        ("gate --baseline {}/b.zip --results {}/r", "baseline show {}/b.zip",
         "compare {}/b.zip {}/r"),
        ZIPS,
    ),
    "safetensors": Kind(
        ("plan --model {}/model", "verify {}/model", "export {}/model --out out/new"), SAFETENSORS
    ),
    "tokenizers": Kind(
        ("plan --model {}/model --measures perplexity",),
        TOKENIZERS,
        ("own class", "special token of a list", "length of text"),
    ),
    "GGUF": Kind(("plan --model {}/x.gguf",), GGUF),
}  # fmt: skip
"""All kinds."""
FEW = {
    ("records", "items elsewhere"), ("records", "deep notes"), ("records", "schema_version 1"),
    ("items", "value of None"), ("zips", "size of a lie"), ("safetensors", "map to a root"),
    ("tokenizers", "far id"), ("GGUF", "byte 6"),
}  # fmt: skip


def cases():
    for kind, (commands, table, harmless) in KINDS.items():
        known = with_commands(commands)
        for i, (name, write) in enumerate(table.items()):
            marks = () if (kind, name) in FEW else pytest.mark.full
            values = known[i % len(known)], write, name in harmless
            yield pytest.param(*values, id=f"{kind}: {name}"[:60], marks=marks)


@pytest.fixture(scope="module")
def commands():
    with Commands() as started:
        yield started


def state(root):
    """Return every path with its size and time, without those that commands may write."""
    out = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            about = os.lstat(os.path.join(folder, name))
            size = (about.st_size, about.st_mtime_ns) if name in files else ()
            out[folder, name] = about.st_mode, size
        written = {str(root): "cache", str(root / "here"): "out"}
        names[:] = [name for name in names if name != written.get(folder)]
    return out


@pytest.mark.parametrize(("command", "write", "may_pass"), list(cases()))
def test_a_hostile_file_is_a_sentence(tmp_path, commands, command, write, may_pass):
    hostile = tmp_path / "here/hostile"
    for name in ("here/hostile", "here/out", "home", "cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    write(hostile)
    before = state(tmp_path)
    environment = {"HOME": str(tmp_path / "home"), "CAST_BENCH_CACHE": str(tmp_path / "cache")}
    words = command.replace("{}", str(hostile)).split()

    here, environment = tmp_path / "here", environment | runs.NO_HUB
    code, out, err = commands.run(words, here, environment)

    assert code in (0, 1, 2) and (may_pass or code), out + err
    assert "Traceback" not in out + err and "\x1b]" not in out + err, out + err
    assert not code or "bench: " in err, out + err
    assert state(tmp_path) == before
