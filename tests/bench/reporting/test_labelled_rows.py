"""Labels beside a method's name, rows of quantized files, and counts that are derived."""

import pytest

from bench.comparing.result_arguments import read
from bench.inputs.models import ALIASES
from bench.reporting import board, equal_bytes, hardware, table
from bench.reporting.labelled_rows import facts_of, labelled_rows, mask_moves, remarks
from bench.results import recount
from bench.results.record import Item, ReadingRow
from bench.results.rows import to_rows
from helpers import fake_records

MODEL = "smollm2-135m-instruct-q4"
DENSE = {"method": "dense", "identity": {"model": MODEL}}
PLAIN_INT8 = {"method": "dense", "identity": {"model": MODEL, "quantizer": "int8"}}
CURVE = [
    {"step": 10.0, "S": 0.75, "flips": 0.001},
    {"step": 20.0, "S": 0.8, "flips": 0.002},
    {"step": 200.0, "S": 1.0, "flips": 0.003},
]


def sizes(record, **values):
    about = {"unit": "1", "better": "lower"}
    record.readings = [ReadingRow(metric=name, value=x, **about) for name, x in values.items()]
    return record


def test_a_label_says_what_a_method_leaves_out():
    for stages in (("wanda",), ("wanda", "dsnot:part=all"), ("of-a-package-that-is-not-here",)):
        assert remarks(stages) == ()
    assert remarks(("ria:power=1",)) == ("no channel permutation",)
    assert remarks(("wanda", "dsnot:from=wanda")) == ("linears of the attention only",)


OLD_CLAIM = {"bits": 4, "scale_bits": 32, "scales": 1, "packed": False, "total_bytes": None}
NEW_CLAIM = {"weights": 8, "values": 1, "others": 0, "is_packed": False}


@pytest.mark.parametrize(
    "stored", [OLD_CLAIM | {"library": "liar"}, NEW_CLAIM | {"claimed": "liar"}]
)
def test_bits_that_a_library_claims_are_marked_and_in_no_comparison(stored):
    about = {"artifact": "a" * 64, "identity": {"quantizer": "hqq"}, "notes": {"stored": stored}}
    counted = fake_records.record("dense", 0, "pattern", "targets", **about)
    size = fake_records.record("dense", 0, "size", "weights", **about | {"notes": {}})
    sizes(size, bits_per_weight=1.0, bytes_packed=1.0, parameters=8.0)
    rows = {row["metric"]: row for row in labelled_rows([size, counted])}
    assert "liar" in rows["bits_per_weight"]["reason"]
    assert not rows["parameters"].get("claimed")
    cell = table.summarize([rows["bits_per_weight"]], ("bits_per_weight", "weights", "size"))
    assert cell.value is None, "a rank, a front and bench pick take cells with a value alone"
    assert "claimed" in cell.text
    assert equal_bytes._bytes([rows["bytes_packed"]]) is None


def test_a_share_of_flips_is_written_without_an_exponent():
    for flips, said in {0.0062: "0.62%", 0.0953: "9.5%", 0.26: "26%", 1.304: "130%"}.items():
        (text,) = facts_of([{"record": "a", "mask": (flips, 0.8)}])
        assert text == f"{said} of the mask flipped, S 0.80 after a tenth"


def test_a_label_says_how_much_of_a_mask_moved(tmp_path):
    flips, early = mask_moves({"curve": CURVE})
    assert (flips, early) == (pytest.approx(0.006), 0.8)
    counted = [{"step": s, "S": r, "flipped": f} for s, r, f in ((1.0, 0.7, 0.1), (9.0, 0.9, 0.4))]
    assert mask_moves({"curve": counted}) == (0.4, 0.7)
    for notes in ({}, {"curve": []}, {"curve": [{"step": 1}]}):
        assert mask_moves(notes) is None
    for seed in (0, 1):
        about = {"method": "cast", "seed": seed, "notes": {"curve": CURVE}}
        fake_records.counted(tmp_path, "violated_groups", 0.0, **about)
    (printed,) = table.text_tables(read(tmp_path).records)
    assert printed.lines[0][0] == "cast (2 seeds) (0.6% of the mask flipped, S 0.80 after a tenth)"


def test_a_pattern_without_hardware_says_so():
    for pattern in ("8:16", "4:8"):
        assert hardware.pattern_label(pattern) == f"{pattern}, no hardware"
    for pattern in ("2:4", "1:4", "6:8", "pairs:4:8", "dense", "50%", "other"):
        assert hardware.pattern_label(pattern) == pattern
    assert hardware.pattern_label("2:4", "nvfp4-w4a4") == "2:4, no hardware"
    assert hardware.pattern_label("2:4", "nvfp4") == "2:4"


def test_the_file_of_an_alias_has_the_quality_of_the_dense_row_at_its_own_size(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(board.reproduce, "prune_and_export", lambda record: ("make", "export"))
    sparse = {"seed": 0, "identity": {"model": MODEL, "quantizer": "int8"}}
    for about, loss, bits in ((DENSE, 0.0, 16.0), (sparse, 0.5, 5.0)):
        fake_records.perplexity(tmp_path, loss, **about)
        sizes = {"bytes_packed": 19e6 * bits, "parameters": 1.6e8}
        fake_records.bits(tmp_path, bits, beside=sizes, **about)
    results = read(tmp_path)
    (one,) = board.make_sections([results])[0].tables
    rows = {row.name: row for row in one.rows}
    (near,) = equal_bytes.text_tables(results.records)

    assert list(rows) == ["dense", "dense Q4_1 file", "wanda 2:4 int8"]
    file = rows["dense Q4_1 file"].facts
    assert file.bits == ALIASES[MODEL].file.bits == 5.0
    assert file.bytes == ALIASES[MODEL].file.bytes
    assert file.bits_per_parameter == pytest.approx(8 * file.bytes / 1.6e8)
    assert rows["dense Q4_1 file"].facts.ratio.value == 1
    assert rows["dense Q4_1 file"].facts.make == f"bench pull {MODEL}"
    assert rows["dense"].facts.bits == 16 and rows["dense"].facts.make
    assert [line[3] for line in near.lines] == ["int8", "Q4_1 file"]
    assert "5.0 bits" in near.title and "5.0 bits" in table.text_tables(results.records)[0].title


def test_a_file_is_not_compared_by_the_size_of_the_model_that_was_made_from_it(tmp_path):
    """Its records are those of the dense model, of 16 bits per weight."""
    fake_records.perplexity(tmp_path, **DENSE)
    fake_records.perplexity(tmp_path, 0.1, noise=1, **PLAIN_INT8)
    for about, bits in ((DENSE, 16.0), (PLAIN_INT8, 8.0)):
        fake_records.bits(tmp_path, bits, items=[Item("0", "0", bits, 1.0)], **about)
    (one,) = board.make_sections([read(tmp_path)])[0].tables
    pairs = {
        (one.rows[a].name, one.rows[b].name, one.columns[c].metric): x.value
        for (a, b, c), x in one.intervals.items()
    }

    assert ("dense Q4_1 file", "dense int8", "perplexity") in pairs
    assert {key[:2]: x for key, x in pairs.items() if key[2] == "bits_per_weight"} == {
        ("dense", "dense int8"): -8.0
    }


@pytest.mark.parts("leaderboard")
def test_rows_without_tasks_stand_apart(tmp_path):
    from bench.parts.leaderboard import board_files as leaderboard

    fake_records.perplexity(tmp_path, method="dense")
    tasks = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=0)
    fake_records.perplexity(tmp_path, 0.2, method="ria", seed=0)
    for method, seed in (("dense", None), ("ria", 0)):
        for task in tasks:
            fake_records.accuracy(tmp_path, method=method, seed=seed, protocol=f"{task}@1.0")
    results = read(tmp_path)
    (one,) = board.make_sections([results])[0].tables
    with_tasks, without = table.text_tables(results.records)
    page = leaderboard.build([tmp_path], tmp_path / "no papers")["leaderboard.md"].decode()

    assert [row.name for row in one.rows] == ["dense", "ria 2:4", "wanda 2:4"], "wanda is better"
    assert {line[0] for line in with_tasks.lines} == {"dense", "ria (no channel permutation)"}
    assert [line[0] for line in without.lines] == ["wanda"]
    assert without.title.endswith("rows without tasks")
    assert not any("acc" in header for header in without.headers)
    at = [page.index(text) for text in ("| ria (", leaderboard.WITHOUT_TASKS, "| wanda | 2:4")]
    assert at == sorted(at)


def test_a_trained_row_is_compared_with_the_control_of_its_training(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for tokens, loss in (("1,000", 0.1), ("2,000", 0.4)):
        text = {"training": f"wiki-mini@128x8, {tokens} tokens"}
        control = {"method": "dense-ft", "seed": 0, "identity": text | {"pattern": "dense"}}
        fake_records.perplexity(tmp_path, loss - 0.3, **control)
        fake_records.perplexity(tmp_path, loss, method="cast", seed=0, identity=text)
    (one,) = board.make_sections([read(tmp_path)])[0].tables
    column = one.column("perplexity_ratio_to_dense-ft")
    rows = [row for row in one.rows if "seed" not in row.name]

    trained = [row.cells[column].text for row in rows if row.name == "cast 2:4"]
    assert [text.split()[0] for text in trained] == ["×1.350"] * 2
    assert not any(row.cells[column] for row in rows if row.name != "cast 2:4")


def test_a_bitmap_is_derived_for_older_records():
    half = sizes(
        fake_records.record(measure="size", identity={"pattern": "50%"}),
        bits_per_weight=16.0,
        sparsity=0.5,
    )
    group = sizes(fake_records.record(measure="size"), bits_per_weight=9.0, sparsity=0.5)

    assert [r.value for r in recount.read(half)] == [16.0, 0.5, 9.0]
    metrics = ["bits_per_weight", "sparsity", "bits_with_bitmap"]
    assert [row["metric"] for row in to_rows([half])] == metrics
    assert recount.read(group) == group.readings
    assert [r.metric for r in half.readings] == metrics[:2], "the record keeps its values"
