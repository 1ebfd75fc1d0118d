"""One function says whether a record holds, and what it accepts every command can show."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
from adversarial.test_changed_records import leaf_of, leaves, with_leaf

import bench
from bench.results.folder_check import check_folder
from bench.results.identity import Identity
from bench.results.record import parse
from bench.results.record_check import check_record
from bench.results.store import ReadOnlyStore, Store
from bench.system import digests
from helpers import fake_records
from helpers.installed import with_commands
from methods.contract.errors import UserError

RESULTS = Path(__file__).parents[2] / "results"
PACKAGE = Path(bench.__file__).parent


def callers(function):
    """The modules of bench that call a function."""
    call = re.compile(rf"(?<!def )\b{function}\(")
    paths = PACKAGE.rglob("*.py")
    return {p.relative_to(PACKAGE).as_posix() for p in paths if call.search(p.read_text())}


def test_every_door_calls_the_one_function():
    """Folders and single records are read by the store, baselines by theirs, records of other
    machines by transfer; what is written is checked as it will be read."""
    doors = {"results/store.py", "comparing/baseline.py", "results/transfer.py", "results/items.py"}
    assert callers("check_record") == doors
    assert callers("contradictions") == {"results/record_check.py"}
    assert callers(r"Record\.model_validate") == {"results/record.py"}


def test_records_that_are_not_checked_are_only_named():
    """`listed` reads no items. Who uses it prints names, and no number."""
    assert callers("listed") == {
        "cli/pick.py", "cli/figure.py",  # the models of a sentence
        "comparing/result_arguments.py",  # whether there is one
        "parts/submission/submission_folder.py",  # the name of a submission
    }  # fmt: skip


def test_a_number_that_items_give_cannot_be_left_out():
    for store, record in sample():
        items = store.items(record) if record.items else None
        for metric in check_record(record, items).derived:
            readings = [reading for reading in record.readings if reading.metric != metric]
            with pytest.raises(UserError, match=r"leaves out|it has no"):
                check_record(record.model_copy(update={"readings": readings}), items)


HOSTILE = {
    bool: (None,),
    int: (0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**70, 1.5),
    float: (0.0, -0.0, -1.0, 5e-324, 1e-300, 1e16, 1e300, 1.7e308, 3),
    str: ("", " ", "x" * 300, "é\u200b", "=1+1", "\x1b[2J", "@everyone", "2:4", "9:4", "nan"),
    dict: ({}, {"a": 1}, None),
    list: ([], [1], None),
    type(None): (0, "x", {}, 2**62),
}
"""Values that take the place of a leaf, by its type."""


def sample():
    """One record of each measure of the model tiny, and the dense rows beside them."""
    found = {}
    for folder in ("tiny-default", "tracks", "speed-engines"):
        store = ReadOnlyStore(RESULTS / folder)
        for record in store.listed():
            name = record.identity.measure, record.identity.method == "dense"
            if record.status == "ok":
                found.setdefault(name, (store, record))
    return list(found.values())


def variants(store, record):
    """Yield a leaf, a value, and the record with it: sealed alone, and with a key that fits."""
    fields = json.loads(store.path(record.key).read_text())
    del fields["digest"]
    for leaf in leaves(fields):
        old = leaf_of(fields, leaf)
        for value in HOSTILE[type(old)]:
            changed = with_leaf(fields, leaf, value)
            yield leaf, value, changed
            if leaf[0] == "identity":
                try:
                    identity = Identity.model_validate(changed["identity"])
                    inputs = fields["key_inputs"] | fake_records.inputs_of(identity)
                except (ValueError, IndexError):
                    continue
                yield leaf, value, rekeyed(changed | {"key_inputs": inputs})
            elif leaf[0] == "key_inputs":
                yield leaf, value, rekeyed(changed)


def rekeyed(fields):
    """Return fields with the key and artifact of their key inputs."""
    inputs = fields["key_inputs"]
    beside = ("tokenizer", "measure", "hardware")
    made_from = {k: v for k, v in inputs.items() if k not in beside}
    artifact = digests.of(made_from) if "stages" in inputs else fields["artifact"]
    fields |= {"key": digests.of(inputs), "artifact": artifact}
    if fields["items"]:
        fields["items"] = fields["items"] | {"file": f"{fields['key'][:32]}.parquet"}
    return fields


def accepted(store, record, seed):
    """Yield the variants that the one function accepts, in a random order."""
    items = store.items(record) if record.items else None
    every = [*variants(store, record)]
    random.Random(seed).shuffle(every)
    for leaf, value, fields in every:
        try:
            content = json.dumps(fields | {"digest": digests.of(fields)}).encode()
            changed = parse(content, "a record")
            check_record(changed, items if changed.items else None)
        except (ValueError, UserError):
            continue
        yield leaf, value, changed


def different(found):
    """Yield the first variant of each leaf and value, whatever the leaf's places in lists."""
    seen = set()
    for leaf, value, changed in found:
        form = tuple("*" if isinstance(part, int) else part for part in leaf), repr(value)
        if form not in seen:
            seen.add(form)
            yield leaf, value, changed


LINES = with_commands(
    [
        ("check", "{}"),
        ("report", "--results", "{}"),
        ("report", "--results", "{}", "--format", "json"),
        ("report", "--results", "{}", "--format", "csv"),
        ("report", "--results", "{}", "--out", "page"),
        ("compare", "base", "{}"),
        ("compare", "{}", "base"),
        ("gate", "--baseline", "base", "--results", "{}"),
        ("gate", "--baseline", "{}", "--results", "base"),
        ("pick", "--model", "tiny", "--results", "{}"),
        ("pick", "--model", "smollm2-135m", "--results", "{}"),
        ("history", "--results", "{}"),
        ("baseline", "set", "changed", "--results", "{}", "--dir", "baselines"),
        ("export", "--format", "eee", "--results", "{}", "--out", "eee"),
        ("merge", "{}", "--results", "merged"),
        ("submit", "{}", "--credit", "Ada", "--published", "published", "--out", "out"),
        ("submit", "{}", "--check", "--published", "published"),
        ("ls", "runs", "--results", "{}"),
    ]
)
"""Each reader of records. `show` is called for each changed record."""
BATCHES = 2


@pytest.fixture(scope="module")
def batches():
    """Yield folders of changed records: in each, all of the sample, each with one changed leaf."""
    each = []
    for number, (store, record) in enumerate(sample()):
        found = different(accepted(store, record, number))
        each.append((store, record, *one) for one in found)
    return itertools.zip_longest(*each)


def write(batch, root):
    """Write records to a folder, and leave out those that other records of it contradict."""
    for store, old, _, _, record in filter(None, batch):
        Store(root).write_content(record, store.content(old) if record.items else b"")
    for problem in check_folder(root).problems:
        Path(problem.partition(": ")[0].partition(".json")[0] + ".json").unlink()


def show_all(batch, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("published").mkdir()
    for store, record in sample():
        Store(Path("base")).copy(record, store)
    write(batch, Path("changed"))
    keys = [path.stem for path in Path("changed/records").iterdir()]
    lines = [*LINES, *(("show", key, "--results", "{}") for key in keys)]
    for line in lines:
        code, out, err = cli(*("changed" if part == "{}" else part for part in line))
        said = f"{line}: {[(leaf, value) for _, _, leaf, value, _ in filter(None, batch)]}\n{err}"
        assert code in (0, 1, 2) and "Traceback" not in out + err, said
        if code == 2:
            assert "does not hold" not in err and "is no record" not in err, said


@pytest.mark.parametrize("number", [*range(BATCHES), pytest.param(None, marks=pytest.mark.full)])
@pytest.mark.filterwarnings("ignore")
def test_what_is_accepted_can_be_shown(batches, number, cli, tmp_path, monkeypatch):
    """None: all that are left."""
    last = None if number is None else 1
    for i, batch in enumerate(itertools.islice(batches, last)):
        (tmp_path / str(i)).mkdir()
        show_all(batch, cli, tmp_path / str(i), monkeypatch)
