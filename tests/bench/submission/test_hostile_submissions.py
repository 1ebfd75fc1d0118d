"""Archives that must be refused: each case changes a sound submission, and names the reason.

A change of a record is sealed again, as its owner could: with new digests, and a new key where the key's inputs change.
"""

import hashlib
import io
import json
import re
import shutil
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from bench.results import items as items_module
from bench.results.derive import derive
from bench.results.record import Item, Record, parse
from bench.results.store import ReadOnlyStore
from bench.submission.folder import opened
from bench.submission.review import read_published, review
from bench.system import digests
from helpers.limits import limits
from methods.errors import UserError

RESULTS = Path(__file__).parents[3] / "results"
NAME = "tiny-xeon-ada"
ABOUT = 'kind = "results"\ncredit = "Ada"\nsubmitted = 2026-11-26\n[licences]\ntiny = "Apache-2.0"\nwiki-mini = "CC BY-SA 3.0"\n'
MEASURES = ("perplexity", "size", "pattern")


def chosen(method, *quantizers):
    store = ReadOnlyStore(RESULTS / "tiny-default")
    for record in store:
        identity = record.identity
        if identity.stages == (method,) and identity.quantizer in quantizers and identity.measure in MEASURES:
            yield record, store.path(record.key).read_bytes(), store.content(record) if record.items else b""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for method in ("dense", "magnitude"):
        for record, text, items in chosen(method, "none"):
            for folder, content in (("records", text), ("items", items)):
                path = root / "base" / folder / f"{record.stem}.{'json' if folder == 'records' else 'parquet'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if content:
                    path.write_bytes(content)
    return read_published(root)


@pytest.fixture(scope="module")
def sound():
    """Files of a sound submission: Wanda at 2:4, and the same with int8."""
    files = {"about.toml": ABOUT.encode()}
    for record, text, items in chosen("wanda", "none", "int8"):
        files[f"records/{record.stem}.json"] = text
        if items:
            files[f"items/{record.stem}.parquet"] = items
    return files


class Draft(dict):
    """Files of a submission by name, which a case changes. raw: changes the bytes of the archive."""

    name, folder = NAME, NAME
    raw = staticmethod(bytes)
    infos = ()

    def find(self, measure="perplexity", quantizer="none"):
        for name in sorted(n for n in self if n.startswith("records/")):
            record = parse(self[name], name)
            if record.identity.measure == measure and record.identity.quantizer == quantizer:
                return record

    def put(self, record: Record, old: Record):
        content = self.pop(f"items/{old.stem}.parquet", b"")
        del self[f"records/{old.stem}.json"]
        if record.items and content:
            record.items.file = f"{record.stem}.parquet"
            self[f"items/{record.stem}.parquet"] = content
        self[f"records/{record.stem}.json"] = record.to_json(indent=1).encode()

    def edit(self, measure="perplexity", quantizer="none", *, inputs=None, identity=None, **fields):
        """Change fields of a record and seal it. inputs: a function that changes its key inputs."""
        old = self.find(measure, quantizer)
        record = old.model_copy(deep=True, update=fields)
        if identity:
            record.identity = record.identity.model_copy(update=identity)
        if inputs:
            inputs(record.key_inputs)
            record.key = digests.of(record.key_inputs)
            made = {n: v for n, v in record.key_inputs.items() if n not in ("tokenizer", "measure", "hardware")}
            record.artifact = digests.of(made)
        self.put(record, old)
        return record

    def text(self, old, new, measure="perplexity"):
        """Replace text of a record without sealing it."""
        name = f"records/{self.find(measure).stem}.json"
        assert old in self[name].decode()
        self[name] = self[name].decode().replace(old, new, 1).encode()

    def score(self, change, measure="perplexity", quantizer="none"):
        """Change the items of a record, and every number that follows from them."""
        old = self.find(measure, quantizer)
        items = items_module.unpack(self[f"items/{old.stem}.parquet"], old, "items")
        rows = zip(items.ids, items.clusters, items.columns["value"], items.weights, strict=True)
        content = items_module.pack([change(Item(*map(_plain, row))) for row in rows])
        record = old.model_copy(deep=True)
        record.items.sha256, record.items.size = hashlib.sha256(content).hexdigest(), len(content)
        for reading, now in derive(
            record, items_module._items(items_module.read_parquet(content, "items", len(items.ids)))
        ):
            reading.value, reading.stderr, reading.n = now.value, now.stderr, now.n
        self[f"items/{old.stem}.parquet"] = content
        self.put(record, old)

    def about(self, old, new):
        assert old in ABOUT
        self["about.toml"] = ABOUT.replace(old, new).encode()

    def packed(self):
        out = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore", UserWarning)
            for name, content in self.items():
                archive.writestr(f"{self.folder}/{name}" if not name.startswith("!") else name[1:], content)
            for info, content in self.infos:
                archive.writestr(info, content)
        return self.raw(out.getvalue())


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def with_info(mode=0, name=f"{NAME}/items/{'a' * 32}.parquet", kind=zipfile.ZIP_STORED, content=b"x"):
    def change(draft):
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, kind
        draft.infos = [(info, content)]

    return change


def with_raw(function):
    return lambda draft: setattr(draft, "raw", function)


def with_file(name, content=b"x"):
    return lambda draft: draft.__setitem__(name, content)


def edited(*args, **fields):
    return lambda draft: draft.edit(*args, **fields)


def keyed(*path, to, measure="perplexity", quantizer="none", identity=None):
    """Return a change of one key input, by its path, with a key that fits."""

    def change(inputs):
        for part in path[:-1]:
            inputs = inputs[part]
        inputs[path[-1]] = to

    return lambda draft: draft.edit(measure, quantizer, inputs=change, identity=identity)


def provenance(**fields):
    return lambda draft: draft.edit(provenance={**draft.find().provenance, **fields})


def about(old, new):
    return lambda draft: draft.about(old, new)


def encrypted(content):
    """Set the flag of encryption of the first file, in both of its headers."""
    content = bytearray(content)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def with_false_size(content):
    """Say in both headers that the first file unpacks to one byte."""
    at = content.index(b"PK\x01\x02")
    content = bytearray(content)
    content[22:26] = content[at + 24 : at + 28] = struct.pack("<I", 1)
    return bytes(content)


def protocol(draft, **fields):
    return {"protocol": draft.find().identity.protocol.model_copy(update=fields)}


def model(name):
    def change(draft):
        for measure in MEASURES:
            for quantizer in ("none", "int8"):
                draft.edit(measure, quantizer, identity={"model": name})
        draft.name = draft.folder = "x-xeon-ada" if "/" in name else NAME

    return change


def swapped(draft):
    """Give the record of int8 the scores of the other."""
    first, second = draft.find(), draft.find(quantizer="int8")
    content = draft[f"items/{first.stem}.parquet"]
    draft[f"items/{second.stem}.parquet"] = content
    record = second.model_copy(deep=True)
    record.items.sha256, record.items.size = hashlib.sha256(content).hexdigest(), len(content)
    draft.put(record, second)


def take(method, measure="perplexity"):
    """Add a record that is published."""

    def change(draft):
        for record, text, items in chosen(method, "none"):
            if record.identity.measure == measure:
                draft[f"records/{record.stem}.json"] = text
                draft[f"items/{record.stem}.parquet"] = items

    return change


def take_again(draft):
    """Add a record that is published, under another key."""
    take("magnitude")(draft)
    names = [n for n in draft if n.startswith("records/")]
    old = next(r for n in names if (r := parse(draft[n], n)).identity.stages == ("magnitude",))
    record = old.model_copy(deep=True)
    record.key_inputs["processes"] = 2
    record.key = digests.of(record.key_inputs)
    record.artifact = ""
    draft.put(record, old)


def twice(draft):
    """Measure the same again, with another number of threads."""
    old = draft.find()
    text, items = draft[f"records/{old.stem}.json"], draft[f"items/{old.stem}.parquet"]
    keyed("threads", to=64)(draft)
    draft[f"records/{old.stem}.json"], draft[f"items/{old.stem}.parquet"] = text, items


def copied(draft):
    """Give Wanda the scores of the dense model."""
    take("dense")(draft)
    dense = next(iter(r for r, _, _ in chosen("dense", "none") if r.identity.measure == "perplexity"))
    old = draft.find()
    draft[f"items/{old.stem}.parquet"] = draft[f"items/{dense.stem}.parquet"]
    record = old.model_copy(deep=True, update={"items": dense.items.model_copy(), "readings": dense.readings})
    draft.put(record, old)


def on_cuda(draft, factor=1.02):
    """Add a dense model of another device, with another number."""
    take("dense")(draft)
    names = [n for n in draft if n.startswith("records/")]
    old = next(r for n in names if (r := parse(draft[n], n)).identity.stages == ("dense",))
    record = old.model_copy(deep=True)
    record.identity = record.identity.model_copy(update={"device": "cuda"})
    record.key_inputs["device"] = "cuda"
    record.key = digests.of(record.key_inputs)
    record.artifact = ""
    draft.put(record, old)
    found = draft.find
    draft.find = lambda *_: record
    draft.score(lambda item: item._replace(value=item.value * factor))
    draft.find = found


def bomb(name="records/" + "b" * 32 + ".json"):
    return with_file(name, b" " * 30_000_000)


def other_folder(name):
    return lambda draft: setattr(draft, "folder", name) or setattr(draft, "name", name)


REFUSED = {
    # The archive.
    "no zip file": ("cannot read submission", with_raw(lambda c: b"MZ" + bytes(1000))),
    "empty": ("cannot read submission", with_raw(lambda c: b"")),
    "cut": ("cannot read submission", with_raw(lambda c: c[: len(c) // 2])),
    "a flipped byte": ("cannot read submission", with_raw(lambda c: c[:3000] + bytes([c[3000] ^ 1]) + c[3001:])),
    "encrypted": ("is encrypted", with_raw(encrypted)),
    "a false size": ("cannot read submission", with_raw(with_false_size)),
    "unpacks to much": ("unpacks to more than", bomb()),
    "data before the first file": ("data before its first file", with_raw(lambda c: b"#!/bin/sh\n" + c)),
    "another compression": ("another method of compression", with_info(kind=zipfile.ZIP_BZIP2)),
    "a link": ("is a link or a device", with_info(stat.S_IFLNK | 0o777, content=b"/etc/passwd")),
    "a device": ("is a link or a device", with_info(stat.S_IFCHR | 0o666)),
    "two files of one name": ("two files of one name", with_info(name=f"{NAME}/about.toml", content=ABOUT.encode())),
    "two folders": ("one folder with the archive's name", with_file("!other/about.toml")),
    "another folder's name": ("one folder with the archive's name", lambda d: setattr(d, "folder", "tiny-other")),
    "a path that climbs": ("no file of a submission", with_file("../../x.json")),
    "a path from the root": ("one folder with the archive's name", with_file("!/etc/cron.d/x")),
    "a path of Windows": ("one folder with the archive's name", with_file("!C:\\x.json")),
    "a script": ("no file of a submission", with_file("run.sh")),
    "a pickle": ("no file of a submission", with_file("items/model.pkl")),
    "a name in capitals": ("no file of a submission", with_file(f"records/{'A' * 32}.json")),
    "a deeper folder": ("no file of a submission", with_file(f"records/a/{'a' * 32}.json")),
    "a newline in a name": ("no file of a submission", with_file(f"records/{'a' * 31}\n.json")),
    "no file at all": ("cannot read submission|one folder", lambda d: d.clear()),
    # The folder.
    "no about.toml": ("needs a name to credit", lambda d: d.pop("about.toml")),
    "about is no TOML": ("is not TOML", with_file("about.toml", b"\xff[")),
    "about has another key": ("invalid script in", with_file("about.toml", b'script = "x"\n' + ABOUT.encode())),
    "a credit of spaces": ("needs a name to credit", about('"Ada"', '" "')),
    "a credit that acts on a terminal": ("needs a name to credit", about('"Ada"', '"\\u001b[2J"')),
    "a long credit": ("needs a name to credit", about('"Ada"', f'"{"a" * 500}"')),
    "a search": ("only results are submitted", about('"results"', '"search"')),
    "a date to come": ("which is to come", about("2026", "2126")),
    "a date before the records": ("but a record is of", about("2026-11-26", "2026-01-26")),
    "no date": ("has no date", about("submitted = 2026-11-26\n", "")),
    "a path in about": ("about.toml has a path", about('"Ada"', '"Ada, /home/ada/x"')),
    "a name without the model": ("does not begin with a model", other_folder("llama2-7b-ada")),
    "a name that is too long": ("is not MODEL-MACHINE-WHO", other_folder("tiny-" + "a" * 80)),
    "only about.toml": ("has no records", lambda d: [d.pop(n) for n in list(d) if n != "about.toml"]),
    "items of no record": ("belongs to no record", with_file(f"items/{'c' * 32}.parquet")),
    "no items": ("has lost its items", lambda d: d.pop(f"items/{d.find().stem}.parquet")),
    # One record.
    "an edited number": ("changed after it was written", lambda d: d.text('"value": ', '"value": 1')),
    "an edited number, sealed": ("its items give", lambda d: d.edit(readings=[d.find().readings[0].model_copy(update={"value": 9.0})])),
    "edited items": ("checksum mismatch|damaged items", lambda d: with_file(f"items/{d.find().stem}.parquet", b"PAR1")(d)),
    "items of another record": ("but its items give", swapped),
    "another method's name": ("its identity has", edited(identity={"stages": ("sparsegpt",)})),
    "another pattern's name": ("its identity has", edited(identity={"pattern": "1:4"})),
    "a key of other inputs": ("its key is not the digest", edited(key_inputs={"a": 1})),
    "another schema": ("schema 99", lambda d: d.text('"schema_version": 4', '"schema_version": 99')),
    "a name twice": ("a name twice", lambda d: d.text('"status": "ok"', '"status": "failed", "status": "ok"')),
    "deep JSON": ("is no record", with_file(f"records/{'d' * 32}.json", b"[" * 100_000)),
    "no number": ("is no record", lambda d: d.text('"value": ', '"value": NaN, "x": ')),
    "a failure": ("it has failed", edited(status="failed", readings=[], items=None, reason="OOM")),
    "no machine": ("does not name its machine", provenance(machine={})),
    "no versions": ("does not name the versions", provenance(versions={})),
    "a time to come": ("is none, or is to come", provenance(recorded="2099-01-01T00:00:00Z")),
    "no time": ("is none, or is to come", provenance(recorded="soon")),
    "changed code": ("uncommitted changes", provenance(commit={"id": "c" * 40, "dirty": True})),
    "a path in notes": ("a path of your machine", edited(notes={"data": {"file": "/home/ada/secret.txt"}})),
    "a path of Windows in notes": ("a path of your machine", edited(notes={"data": "C:\\Users\\ada"})),
    "a path in an item's name": ("its items have a path", lambda d: d.score(lambda i: i._replace(item_id=f"/srv/x/{i.item_id}"))),
    "another harness": ("measured by lm-eval", edited(notes={"made_elsewhere": "lm-eval"})),
    "a model of a folder": ("no alias and no hub id", edited(identity={"model": "./my-model"})),
    "a method that is none": ("unknown method", keyed("stages", 0, "name", to="magic", identity={"stages": ("magic",)})),
    "a model made elsewhere": ("made elsewhere", keyed("stages", 0, "name", to="folder", identity={"stages": ("folder:path=x",)})),
    "a text of one's own": (
        "is no corpus",
        lambda d: keyed("measure", "config", "corpus", to="my.txt", identity=protocol(d, name="my.txt"))(d),
    ),
    "bits of a quantizer that it has not": (
        "which int8 does not have",
        lambda d: d.edit("pattern", "int8", notes=d.find("pattern", "int8").notes | {"stored": {"bits": 1, "scale_bits": 16, "scales": 0}}),
    ),
    "scales that are no number": (
        "which int8 does not have",
        lambda d: d.edit("pattern", "int8", notes=d.find("pattern", "int8").notes | {"stored": {"bits": 8, "scale_bits": 16, "scales": "x"}}),
    ),
    "a configuration that is a list": (
        "another shape",
        keyed("measure", "config", to=[["corpus", "wiki-mini"], ["seqlen", 128]]),
    ),
    "negative bits": ("outside 0", lambda d: d.edit("size", "int8", readings=[
        r.model_copy(update={"value": -1.0}) if r.metric == "bits_per_weight" else r for r in d.find("size", "int8").readings])),
    "fewer bits than the file holds": ("notes of record|its items give", lambda d: d.edit("size", "int8", readings=[
        r.model_copy(update={"value": 2.0}) if r.metric == "bits_per_weight" else r for r in d.find("size", "int8").readings])),
    "bits that nothing explains": ("nothing says how its bits are stored", lambda d: d.pop(f"records/{d.find('pattern', 'int8').stem}.json")),
    # Beside other records.
    "a published record": ("base has this measurement", take("magnitude")),
    "a published measurement under another key": ("base has this measurement", take_again),
    "a measurement twice": ("it repeats the measurement", twice),
    "scores of the dense model": ("those of the dense model", copied),
    "other tokens": ("other tokens than record", edited(token_digest="0" * 64)),
    "another model of the same name": ("one name for two models", keyed("model", to="0" * 64)),
    "an unknown licence": ("licence of org/x is not known", model("org/x")),
    "other windows": ("published rows have wiki-mini@128", lambda d: keyed("measure", "config", "seqlen", to=64, identity=protocol(d, seqlen=64))(d)),
    "some of the windows": ("published rows have wiki-mini@128", lambda d: (
        keyed("measure", "config", "windows", to=2000, identity=protocol(d, limit=2000))(d))),
    "a validation split": ("is a validation split", lambda d: (
        keyed("measure", "config", "split", to="validation", identity=protocol(d, name="wiki-mini-validation"))(d))),
    "a dense model with another number": ("more than the margin of", on_cuda),
    "no dense model at its protocol": ("no dense model at the same protocol", keyed("dtype", to="bfloat16", identity={"dtype": "bfloat16"})),
    "better than dense": ("which is impossible", lambda d: d.score(lambda i: i._replace(value=i.value * 0.8))),
}  # fmt: skip
DEFAULT = (
    "unpacks to much", "a link", "a path that climbs", "an edited number", "an edited number, sealed", "a published record",
    "other windows", "better than dense",
)  # fmt: skip
CASES = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.full) for name in REFUSED]


def judge(draft, published, tmp_path):
    """Return the review of a draft."""
    archive = tmp_path / f"{draft.name}.zip"
    archive.write_bytes(draft.packed())
    with limits(bytes_=6 * 10**8), opened(archive) as (folder, name):
        return review(folder, published, name)


def test_a_sound_submission_is_accepted(sound, published, tmp_path):
    found = judge(Draft(sound), published, tmp_path)

    assert found.refusals == ()
    (effect,) = found.effects
    assert [effect.table.rows[k].filters["quantizer"] for k in effect.rows] == ["none", "int8"]


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_submission_is_refused(case, sound, published, tmp_path):
    reason, change = REFUSED[case]
    draft = Draft(sound)
    change(draft)

    try:
        reasons = list(judge(draft, published, tmp_path).refusals)
    except UserError as fault:
        reasons = [str(fault)]

    assert reasons, "accepted"
    assert re.search(reason, "\n".join(reasons)), reasons
    assert all(one.isprintable() for one in reasons)


def test_a_name_that_is_taken(sound, published, tmp_path):
    draft = Draft(sound)
    taken = [published[0].only("results/tiny-xeon-ada", published[0].records)]

    assert any("is taken" in one for one in judge(draft, taken, tmp_path).refusals)


def test_at_least_sixty_cases():
    assert len(REFUSED) >= 60 and set(DEFAULT) <= set(REFUSED)


def test_a_link_in_a_folder(sound, published, tmp_path):
    """Git can hold links, and a pull request holds the folder itself."""
    folder = tmp_path / NAME
    for name, content in sound.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "signatures").mkdir()
    (folder / "signatures" / f"{'a' * 32}.txt").symlink_to("/etc/passwd")

    assert any("is a link" in one for one in review(folder, published, NAME).refusals)
    shutil.rmtree(folder / "signatures")
    assert json.dumps(review(folder, published, NAME).refusals) == "[]"
