"""Text of strangers, printed by every command of printing.toml: shown, and never obeyed."""

import csv
import io
import json
import re
import tomllib
from pathlib import Path

import pytest

from bench.execution.bars import RichDisplay
from bench.execution.listener import TimeLeft
from bench.execution.progress import LogDisplay
from bench.results.record import Record
from bench.results.run_status import RunStatus, write_status
from bench.results.store import ReadOnlyStore, Store
from bench.stats import bootstrap
from bench.system.text import FORMULA_STARTS
from helpers import fake_records, runs, terminal

DATA = tomllib.loads((Path(__file__).parent / "printing.toml").read_text())
TEXTS, COMMANDS = DATA["texts"], DATA["commands"]
for _file in sorted(Path(__file__).parents[1].glob("parts/*/printing.toml")):
    COMMANDS |= tomllib.loads(_file.read_text())
STYLED = ("report", "compare", "top")
"""Commands that draw with colors."""
OTHER_FORMATS = (("report", 2), ("report", 3), ("gate", 1))
"""CSV, Markdown and annotations for GitHub."""


def cases():
    """The first line of every command in a file, and of some with colors."""
    for name, lines in COMMANDS.items():
        for i in range(len(lines)):
            for where in ("file", "colors"):
                is_first = i == 0 or (name, i) in OTHER_FORMATS
                is_sample = is_first and (where == "file" or name in STYLED)
                marks = () if is_sample else pytest.mark.full
                yield pytest.param(name, i, where, marks=marks, id=f"{name}-{i}-{where}")


KEPT = (
    *("key", "status", "better", "items", "schema_version", "artifact", "recorded"),
    *("engine", "prompt"),  # a perplexity's key says nothing of them
)
"""Fields of a record that are checked before any is printed."""
REFUSING = ("figure", "export")
"""Commands that the hostile records are not enough for."""
SILENT = (*REFUSING, "card", "set", "merge")
"""Commands that print none of a record's text."""
OF_RICH = re.compile(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r|\x1b\[[0-9;]*m")
"""How rich draws: cursor off and on, a line deleted, up, its start, and colors."""


def poisoned(value, text, kept=KEPT):
    """Return fields with the text behind every word, or before it if it is a formula."""
    if isinstance(value, dict):
        return {k: v if k in kept else poisoned(v, text, kept) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, text, kept) for v in value]
    if isinstance(value, str):
        return text + value if text.lstrip()[:1] in "=@:" else value + text
    return value


def poison(root, text, n, loss):
    """Write records of a model under this text: metrics known and unknown, and a failure."""
    known = (*KEPT, "metric", "measure", "unit", "pattern")
    rows = fake_records.perplexity(root / "plain", loss, made=f"{n}{loss}", noise=n + 1, seed=0)
    scored = fake_records.read_items(root / "plain/items" / rows.items.file)
    items = [item._replace(cluster_id=text + item.cluster_id) for item in scored]
    about = {"made": f"{n}{loss}", "measure": "size"}
    size = fake_records.counted(root / "plain", "bits_per_weight", 8.0, **about)
    about = {"made": f"{n}{loss}", "traceback": "Traceback\n  y\n", "method": "cast"}
    fault = fake_records.failed(root / "plain", "ValueError: x", **about)
    for record, kept, scores in (
        (rows, known, items),
        (
            size,
            (*known, "protocol"),
            fake_records.read_items(root / "plain/items" / size.items.file),
        ),
        (rows.model_copy(update={"key": rows.key[::-1]}), KEPT, items),
        (fault, KEPT, ()),
    ):
        fields = record.model_dump() | {"items": None, "notes": {"a": "b"}}
        fields |= {"key_inputs": {"c": record.key}, "artifact": ""}
        empty = ("reason", "traceback") if record.status == "ok" else ()
        changed = Record.model_validate(poisoned(fields, text, (*kept, *empty, "artifact")))
        changed.key_inputs |= fake_records.inputs_of(changed.identity)
        Store(root / "hostile").write(fake_records.keyed(changed), tuple(scores))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Results folders with records under every text, and one with a file that is no record."""
    home = tmp_path_factory.mktemp("hostile")
    out = {}
    for name, loss in (("records", 0.0), ("others", 0.2)):
        root = home / f"{name}\x1b[2J\n::error::x"
        for n, text in enumerate(TEXTS.values()):
            poison(root, text, n, loss)
        said = "".join(TEXTS.values())
        about = dict.fromkeys(("code", "host", "executor", "outcome"), said)
        ended = RunStatus(name="evil", started=0, updated=1, ended=1, tried={said: 1}, **about)
        write_status(root / "hostile", ended)
        assert ReadOnlyStore(root / "hostile").require_whole() is None
        out[name] = str(root / "hostile")
    corrupt = home / "corrupt\x1b[2J\n::error::x"
    poison(corrupt, TEXTS["clipboard"], 0, 0.0)
    (corrupt / "hostile/records/\x1b]0;x\x07.json").write_text("{\x1b[31m")
    out["corrupt"] = str(corrupt / "hostile")
    failed = [r for r in ReadOnlyStore(Path(out["records"])) if r.traceback]
    one = next(r for r in failed if r.identity.model.endswith(TEXTS["clear_screen"]))
    return out | {"key": one.short_key, "model": one.identity.model, "folder": str(runs.TINY)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache, and nobody to ask."""
    home = tmp_path_factory.mktemp("world")
    (home / "site").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MAX_DRAWS", 4000)
        yield from runs.world(home / "site", home, patch)


def bad(out):
    return sorted({hex(ord(c)) for c in terminal.obeyed(out)})


def commands_of_github(out):
    return [line for line in out.splitlines() if line.lstrip().startswith("::") or "##[" in line]


@pytest.mark.parametrize(("name", "i", "where"), list(cases()))
def test_nothing_that_is_printed_is_obeyed(
    name, i, where, cli, world, folders, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    if where != "file":
        terminal.open_terminal(monkeypatch, 80, colors=where == "colors")
    command = COMMANDS[name][i]
    if name == "baseline" and "{new}" in command and i:
        cli("baseline", "set", "main", "--results", folders["records"], "--dir", tmp_path / "new")
    values = folders | {"new": str(tmp_path / "new")}
    line = [word.format_map(values) for word in command]
    code, out, err = cli(*line)
    if where == "colors":
        out, err = (terminal.STYLES.sub("", x) for x in (out, err))

    assert not bad(out) and not bad(err), (line, bad(out), bad(err))
    assert "Traceback" not in err, err
    if name != "gate" or "--github" not in line:
        assert not commands_of_github(out + err), line
    assert code < 2 or name in REFUSING or "{corrupt}" in command, (line, err)
    is_silent = name in SILENT or command[1] in SILENT
    assert is_silent or re.search(r"�|\\u00|\\r", out + err), "no text was printed"
    if "json" in line or "--json" in line:
        json.loads(out)
    if "csv" in line:
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        formulas = [c for c in cells if c.lstrip(" �").startswith(FORMULA_STARTS)]
        assert all(map(_is_number, formulas)) and len(cells) > 20 * len(TEXTS)


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", [LogDisplay, RichDisplay])
def test_progress_is_only_shown(kind, monkeypatch):
    text = "".join(TEXTS.values())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return kind is RichDisplay

    stream = Terminal()
    display = kind(stream)
    display.begin(3, 1)
    display.note(text)
    running = runs.running(text, measures=(text,))
    display.start(running, TimeLeft(60.0))
    display.take(running, {"event": "state", "phase": text, "state": "loading"}, TimeLeft(60.0))
    display.take(running, runs.progress(text, 1, 3, **{text: 1.0}), TimeLeft(50.0))
    display.take(running, runs.progress(text, 2, 3, **{text: 1.0}), TimeLeft(40.0, 20.0))
    if kind is RichDisplay:
        display._live.refresh()
    failure = {"event": "measurement", "key": text, "status": "failed", "reason": text}
    display.take(running, failure, TimeLeft())
    display.close(None)

    out = OF_RICH.sub("", stream.getvalue()) if kind is RichDisplay else stream.getvalue()
    assert out.count("\n") >= 3 and not bad(out), bad(out)
    assert kind is RichDisplay or not commands_of_github(out)
