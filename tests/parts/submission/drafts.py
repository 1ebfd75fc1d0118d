"""A sound submission as files that a test changes, and changes of it.

A change of a record is sealed again, as its owner could: with new digests, and a new key where the
key's inputs change.
"""

import hashlib
import io
import warnings
import zipfile
from pathlib import Path

from pyarrow import parquet

from bench.results import items as items_module
from bench.results.derive import derive
from bench.results.record import Item, Record, parse
from bench.results.store import ReadOnlyStore
from helpers import fake_records

RESULTS = Path(__file__).parents[3] / "results"
NAME = "tiny-xeon-ada"
DAY = max(record.recorded[:10] for record in ReadOnlyStore(RESULTS / "tiny-default"))
"""Day of the newest record, before which nothing can be submitted."""
ABOUT = (
    f'kind = "results"\ncredit = "Ada"\nsubmitted = {DAY}\n[licences]\ntiny = '
    '"Apache-2.0"\nwiki-mini = "CC BY-SA 3.0"\n'
)
MEASURES = ("perplexity", "size", "pattern")


def chosen(method, *quantizers):
    store = ReadOnlyStore(RESULTS / "tiny-default")
    for record in store:
        identity = record.identity
        is_of_row = identity.stages == (method,) and identity.quantizer in quantizers
        if is_of_row and identity.measure in MEASURES:
            items = store.content(record) if record.items else b""
            yield record, store.path(record.key).read_bytes(), items


class Draft(dict):
    """Files of a submission by name, which a case changes. raw: changes the bytes of the
    archive."""

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
            fake_records.keyed(record)
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
        for reading, now in derive(record, items_module.unpack(content, record, "items")):
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
                archive.writestr(
                    f"{self.folder}/{name}" if not name.startswith("!") else name[1:], content
                )
            for info, content in self.infos:
                archive.writestr(info, content)
        return self.raw(out.getvalue())


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def with_info(
    mode=0, name=f"{NAME}/items/{'a' * 32}.parquet", kind=zipfile.ZIP_STORED, content=b"x"
):
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


def taken(draft, method):
    """Add a record that is published, and return it and a copy that may get another key."""
    take(method)(draft)
    names = [n for n in draft if n.startswith("records/")]
    old = next(r for n in names if (r := parse(draft[n], n)).identity.stages == (method,))
    return old, old.model_copy(deep=True)


def twice(draft):
    """Measure the same again, with another number of threads."""
    old = draft.find()
    text, items = draft[f"records/{old.stem}.json"], draft[f"items/{old.stem}.parquet"]
    keyed("threads", to=64)(draft)
    draft[f"records/{old.stem}.json"], draft[f"items/{old.stem}.parquet"] = text, items


def copied(draft):
    """Give Wanda the scores of the dense model."""
    take("dense")(draft)
    dense = next(r for r, _, _ in chosen("dense", "none") if r.identity.measure == "perplexity")
    old = draft.find()
    draft[f"items/{old.stem}.parquet"] = draft[f"items/{dense.stem}.parquet"]
    scores = {"items": dense.items.model_copy(), "readings": dense.readings}
    draft.put(old.model_copy(deep=True, update=scores), old)


def copied_and_packed_again(draft):
    """Give Wanda the scores of the dense model, in a file of other bytes."""
    copied(draft)
    old = draft.find()
    name = f"items/{old.stem}.parquet"
    sink = io.BytesIO()
    parquet.write_table(parquet.read_table(io.BytesIO(draft[name])), sink, compression="none")
    draft[name] = sink.getvalue()
    record = old.model_copy(deep=True)
    record.items.sha256 = hashlib.sha256(draft[name]).hexdigest()
    record.items.size = len(draft[name])
    draft.put(record, old)


def on_cuda(draft, factor=1.02):
    """Add a dense model of another device, with another number."""
    old, record = taken(draft, "dense")
    record.identity = record.identity.model_copy(update={"device": "cuda"})
    record.key_inputs["device"] = "cuda"
    draft.put(fake_records.keyed(record), old)
    found = draft.find
    draft.find = lambda *_: record
    draft.score(lambda item: item._replace(value=item.value * factor))
    draft.find = found


def bomb(name="records/" + "b" * 32 + ".json"):
    return with_file(name, b" " * 30_000_000)


def other_folder(name):
    return lambda draft: setattr(draft, "folder", name) or setattr(draft, "name", name)
