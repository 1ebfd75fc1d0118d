"""Archives that must be refused: each case changes a sound submission, and names the reason.

A change of a record is sealed again, as its owner could: with new digests, and a new key where the
key's inputs change.
"""

import json
import re
import shutil
import stat

import pytest

from bench.parts.submission.review import read_published, review
from bench.parts.submission.submission_folder import opened
from helpers.limits import limits
from methods.contract.errors import UserError
from parts.submission.drafts import (
    ABOUT,
    NAME,
    Draft,
    about,
    bomb,
    chosen,
    copied_and_packed_again,
    edited,
    keyed,
    on_cuda,
    other_folder,
    protocol,
    provenance,
    swapped,
    take,
    twice,
    with_file,
    with_info,
    with_raw,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for folder in ("records", "items"):
        (root / "base" / folder).mkdir(parents=True)
    for method in ("dense", "magnitude"):
        for record, text, items in chosen(method, "none"):
            (root / "base/records" / f"{record.stem}.json").write_bytes(text)
            if items:
                (root / "base/items" / f"{record.stem}.parquet").write_bytes(items)
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


def stored_with(**fields):
    said = {"bits": 8, "scale_bits": 16, "scales": 0} | fields

    def change(draft):
        notes = draft.find("pattern", "int8").notes
        draft.edit("pattern", "int8", notes=notes | {"stored": said})

    return change


def with_bits(value):
    def change(draft):
        readings = [r.model_copy() for r in draft.find("size", "int8").readings]
        (bits,) = (r for r in readings if r.metric == "bits_per_weight")
        bits.value = value
        draft.edit("size", "int8", readings=readings)

    return change


REFUSED = {
    # The archive.
    "no zip file": ("cannot read submission", with_raw(lambda c: b"MZ" + bytes(1000))),
    "unpacks to much": ("unpacks to more than", bomb()),
    "a link": ("no file, or not packed", with_info(stat.S_IFLNK | 0o777, content=b"/etc/passwd")),
    "a path that climbs": ("no file of a submission", with_file("../../x.json")),
    # The folder.
    "no about.toml": ("has no about.toml: make the submission", lambda d: d.pop("about.toml")),
    "a credit that acts on a terminal": ("needs a name to credit", about('"Ada"', '"\\u001b[2J"')),
    "weights that run a script": ("invalid weights.abcdef12 in", with_file(
        "about.toml", f'{ABOUT}\n[weights]\nabcdef12 = "javascript:alert(1)"'.encode())),
    "weights of no record": ("weights of record abcdef12, which is not here", with_file(
        "about.toml", f'{ABOUT}\n[weights]\nabcdef12 = "https://a.org/b"'.encode())),
    "a date to come": ("which is to come", about("2026", "2126")),
    "a name without the model": ("does not begin with a model", other_folder("llama2-7b-ada")),
    "items of no record": ("belongs to no record", with_file(f"items/{'c' * 32}.parquet")),
    "no items": ("has lost its items", lambda d: d.pop(f"items/{d.find().stem}.parquet")),
    # One record.
    "an edited number, sealed": (
        "its items give",
        lambda d: d.edit(readings=[d.find().readings[0].model_copy(update={"value": 9.0})]),
    ),
    "items of another record": ("but its items give", swapped),
    "a failure": ("it has failed", edited(status="failed", readings=[], items=None, reason="OOM")),
    "a time to come": ("is none, or is to come", provenance(recorded="2099-01-01T00:00:00Z")),
    "changed code": ("uncommitted changes", provenance(commit={"id": "c" * 40, "dirty": True})),
    "a path in notes": ("a path of your machine",
                        edited(notes={"data": {"file": "/home/ada/secret.txt"}})),
    "another harness": (
        "its key_inputs have no method", edited(notes={"made_elsewhere": "lm-eval"})
    ),
    "a model of a folder": ("no alias and no hub id", edited(identity={"model": "./my-model"})),
    "a model made elsewhere": (
        "made elsewhere",
        keyed("stages", 0, "name", to="folder", identity={"stages": ("folder:path=x",)}),
    ),
    "a method's own file": (
        "maskllm reads a file that no one else has",
        keyed("stages", 0, "name", to="maskllm", identity={"stages": ("maskllm:file=/dev/zero",)}),
    ),
    "a text of one's own": (
        "is no corpus",
        lambda d: keyed(
            "measure", "config", "corpus", to="my.txt", identity=protocol(d, name="my.txt")
        )(d),
    ),
    "bits of a quantizer that it has not": (
        "int8 has at least 8",
        stored_with(bits=1),
    ),
    "fewer bits than the file holds": (
        "notes of record|its items give",
        with_bits(2.0),
    ),
    "bits that nothing explains": (
        "nothing says how its bits are stored",
        lambda d: d.pop(f"records/{d.find('pattern', 'int8').stem}.json"),
    ),
    # Beside other records.
    "a published record": ("base has this measurement", take("magnitude")),
    "a measurement twice": ("it repeats the measurement", twice),
    "the same in another file": ("those of the dense model", copied_and_packed_again),
    "other tokens of another tokenizer": (
        "measured on other tokens",
        lambda d: d.edit("perplexity", "none", inputs=lambda i: i.update(tokenizer="0" * 64),
                         token_digest="0" * 64),
    ),
    "another model of the same name": ("one name for two models", keyed("model", to="0" * 64)),
    "other windows": (
        "published rows have wiki-mini@128",
        lambda d: keyed("measure", "config", "seqlen", to=64, identity=protocol(d, seqlen=64))(d),
    ),
    "a validation split": (
        "a validation split",
        lambda d: keyed("measure", "config", "split", to="validation",
                        identity=protocol(d, name="wiki-mini-validation"))(d),
    ),
    "a dense model with another number": ("more than the margin of", on_cuda),
    "no dense model at its protocol": (
        "no dense model at the same protocol",
        keyed("dtype", to="bfloat16", identity={"dtype": "bfloat16"}),
    ),
    "better than dense": ("which is impossible",
                          lambda d: d.score(lambda i: i._replace(value=i.value * 0.8))),
}  # fmt: skip
DEFAULT = ("unpacks to much", "a link", "a path that climbs",
           "an edited number, sealed", "a published record", "other windows", "better than dense",
           "a method's own file", "the same in another file")  # fmt: skip
CASES = [
    name if name in DEFAULT else pytest.param(name, marks=pytest.mark.full) for name in REFUSED
]


def judge(draft, published, tmp_path):
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
