"""wiki-mini: whole, disjoint, clean, and the same every time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.inputs import wikimarkup, wikimini
from helpers import runs
from methods.errors import UserError

TINY = Path(wikimini.__file__).parents[1] / "assets/tiny/TRAINING.json"
DEBRIS = (
    "[[",
    "]]",
    "{{",
    "}}",
    "{|",
    "|}",
    "<ref",
    "</",
    "|thumb",
    "''",
    "==",
    "Category:",
    "File:",
    "&nbsp;",
    ",,",
    "()",
    "\0",
    "\1",
    "\2",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(cache):
    return {split: wikimini.articles(split, cache) for split in ("train", "validation", "test")}


@pytest.fixture
def kept(cache, splits):
    """The cache file, put back after the test."""
    (path,) = (cache / "data").iterdir()
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def no_parse(*_):
    pytest.fail("the dump was read again")


def test_splits_partition_the_articles(cache, splits):
    """No title and no text in two splits, and together they are everything."""
    everything = [article for articles in splits.values() for article in articles]

    assert len({a.title for a in everything}) == len({a.text for a in everything}) == len(everything) == 95
    stored = json.loads(next((cache / "data").iterdir()).read_text(encoding="utf-8"))["articles"]
    assert sorted(everything) == sorted(map(tuple, stored))


def test_split_depends_on_the_title_alone(cache, splits, monkeypatch):
    """With half of the articles gone, and the texts of the rest cut, these stay where they were."""
    half = [a._replace(text=a.text[:100]) for articles in splits.values() for a in articles][::2]
    monkeypatch.setattr(wikimini, "_corpus", lambda _: half)
    for split, articles in splits.items():
        titles = {a.title for a in articles}
        assert wikimini.articles(split, cache) == [a for a in half if a.title in titles]


def test_calibration_is_train(cache, splits):
    assert wikimini.articles("calibration", cache) == splits["train"]


def test_sizes(splits):
    """About 80/10/10 of 2.7 million characters, and enough articles in test to resample them."""
    chars = {split: sum(len(a.text) for a in articles) for split, articles in splits.items()}
    total = sum(chars.values())

    assert 2.6e6 < total < 2.8e6
    assert 0.77 < chars["train"] / total < 0.83
    assert 0.09 < chars["validation"] / total < 0.12
    assert chars["test"] >= 280_000
    assert len(splits["test"]) >= 10


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_reads_as_prose(splits, split):
    """No markup is left, no line is blank or padded, and nearly all characters are English text."""
    for title, text in splits[split]:
        found = [mark for mark in DEBRIS if mark in text]
        assert not found, (title, found)
        assert all(line and line == line.strip() for line in text.split("\n")), title
        assert sum(c.isascii() and (c.isalpha() or c in " ,.") for c in text) > 0.9 * len(text), title


def test_keeps_what_a_reader_sees():
    """Links show their text; references, tables, captions, formulas and back matter vanish with their headings."""
    text = wikimarkup.prose(
        "\n".join(
            [
                "{{Infobox|name=x}}[[File:A.jpg|thumb|A [[caption]] under a picture, which no reader of prose should see.]]",
                "The '''aardvark''' ({{IPAc-en|a}}; born in [[Africa|the south]])<ref>A book.</ref>",
                "is {{convert|3|to|5|ft|m}} long and weighs 10<sup>2</sup> pounds {{as of|2016|lc=y}}, {{lang|la|sic}}.",
                "== Formula ==",
                "This sentence needs <math>x^2</math> in order to make sense to anyone.",
                "== Habits ==",
                "=== Food ===",
                "* ant",
                "* It eats ants, and in the dry season it eats termites as well, all night.",
                "{|",
                "| a table cell that is long enough to be taken for a sentence, with a full stop at its end.",
                "|}",
                "== See also ==",
                "* [[Ant]], a small animal that lives in large numbers and is eaten by others.",
                "=== More ===",
                "This belongs to the back matter and goes with it, whatever it says.",
                "[[Category:Mammals]]",
            ]
        )
    )

    assert text.split("\n") == [
        "The aardvark (born in the south) is 3 to 5 ft long and weighs 10^2 pounds as of 2016, sic.",
        "Habits",
        "Food",
        "It eats ants, and in the dry season it eats termites as well, all night.",
    ]


def test_second_parse_is_the_same(tmp_path, cache, splits):
    """Another parse, which all other tests read, gave the same bytes; and they are the ones `tiny` was trained on."""
    (tmp_path / "data").mkdir()
    shutil.copy2(runs.corpus(), tmp_path / "data")
    assert wikimini.fingerprint(tmp_path) == wikimini.fingerprint(cache)
    trained_on = json.loads(TINY.read_text())["data"]
    assert (wikimini.RECIPE, wikimini.fingerprint(cache)) == (trained_on["recipe"], trained_on["fingerprint"]), (
        "the cleaned text moved: another mwparserfromhell, or a changed rule without a new CLEANING number"
    )


def test_cache_spares_the_parse(cache, splits, monkeypatch):
    monkeypatch.setattr(wikimini, "_read_dump", no_parse)
    assert wikimini.articles("test", cache) == splits["test"]
    assert [p.name for p in (cache / "data").iterdir()] == [f"wiki-mini-{wikimini.RECIPE}.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[: len(b) // 2],
        lambda b: b"[]",
        lambda b: b"\xff" + b,
        lambda b: b.replace(b"the", b"teh", 1),
    ],
    ids=["empty", "cut", "another shape", "not utf-8", "one word changed"],
)
def test_corrupt_cache_is_rebuilt(cache, kept, splits, damage, monkeypatch):
    whole = kept.read_bytes()
    corpus = wikimini._corpus(cache)
    monkeypatch.setattr(wikimini, "_pages", lambda _: iter(corpus))  # the parse itself has its own test
    monkeypatch.setattr(wikimini, "prose", lambda text: text)
    kept.write_bytes(damage(whole))

    assert wikimini.articles("test", cache) == splits["test"]

    assert kept.read_bytes() == whole
    assert list(kept.parent.iterdir()) == [kept]


def test_failed_write_leaves_nothing(tmp_path, splits, monkeypatch):
    """Neither a half-written file under the real name nor a temporary one."""

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        wikimini._write(tmp_path / "data/x.json", splits["test"])
    assert not list((tmp_path / "data").iterdir())


def test_wrong_dump_is_refused():
    with pytest.raises(UserError, match=r"sha256 a53f4648dec4…, and wiki-mini needs 000000000000….*pip install"):
        wikimini._read_dump(sha256="0" * 64)


def test_missing_dump_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nothing\.bz2 that gensim ships: pip install gensim"):
        wikimini._read_dump("test/test_data/nothing.bz2")
    monkeypatch.setattr(wikimini.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"that gensim ships: pip install gensim"):
        wikimini.articles("test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no split 'dev': use one of train, validation, test, calibration"):
        wikimini.articles("dev", tmp_path)


def test_import_is_light():
    """Naming the data must not cost the seconds that torch, transformers or gensim take to import."""
    heavy = "{'torch', 'transformers', 'gensim', 'mwparserfromhell'}"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys, bench.inputs.wikimini; print(*{heavy} & set(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(wikimini.__file__).parents[2],
    )
    assert ran.stdout.strip() == ""
