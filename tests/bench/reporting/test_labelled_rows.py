"""Labels beside a method's name, rows of quantized files, and counts that are derived."""

import pytest

from bench.compare.result_arguments import read
from bench.inputs.models import ALIASES
from bench.reporting import board, equal_bits, hardware, leaderboard, table
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
    rows = [
        ReadingRow(metric=name, value=value, unit="1", better="lower")
        for name, value in values.items()
    ]
    record.readings = rows
    return record


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (("wanda",), ()),
        (("ria:power=1",), ("no channel permutation",)),
        (("wanda", "dsnot:from=wanda"), ("linears of the attention only",)),
        (("wanda", "dsnot:part=all"), ()),
        (("of-a-package-that-is-not-here",), ()),
    ],
)
def test_a_label_says_what_a_method_leaves_out(stages, said):
    assert remarks(stages) == said


OLD_CLAIM = {
    "stored": {
        "bits": 4,
        "scale_bits": 32,
        "scales": 1,
        "library": "hqq 0.2",
        "packed": False,
        "total_bytes": None,
    }
}
NEW_CLAIM = {
    "stored": {"weights": 8, "values": 1, "others": 0, "is_packed": False, "claimed": "liar"}
}


@pytest.mark.parametrize(("notes", "library"), [(OLD_CLAIM, "hqq 0.2"), (NEW_CLAIM, "liar")])
def test_bits_that_a_library_claims_are_marked_and_in_no_comparison(notes, library):
    about = {"artifact": "a" * 64, "identity": {"quantizer": "hqq"}}
    counted = fake_records.record("dense", 0, "pattern", "targets", notes=notes, **about)
    size = sizes(
        fake_records.record("dense", 0, "size", "weights", **about),
        bits_per_weight=1.0,
        parameters=8.0,
    )
    rows = {row["metric"]: row for row in labelled_rows([size, counted])}
    assert library in rows["bits_per_weight"]["reason"]
    assert not rows["parameters"].get("claimed")
    cell = table.summarize([rows["bits_per_weight"]], ("bits_per_weight", "weights", "size"))
    assert cell.value is None, "a rank, a front and bench pick take cells with a value alone"
    assert "claimed" in cell.text
    assert equal_bits._bits([rows["bits_per_weight"]]) is None


@pytest.mark.parametrize(
    ("flips", "said"), [(0.0062, "0.62%"), (0.0953, "9.5%"), (0.26, "26%"), (1.304, "130%")]
)
def test_a_share_of_flips_is_written_without_an_exponent(flips, said):
    (text,) = facts_of([{"record": "a", "mask": (flips, 0.8)}])
    assert text == f"{said} of the mask flipped, S 0.80 after a tenth"


def test_a_label_says_how_much_of_a_mask_moved(tmp_path):
    flips, early = mask_moves({"curve": CURVE})
    assert (flips, early) == (pytest.approx(0.006), 0.8)
    assert mask_moves(
        {
            "curve": [
                {"step": 1.0, "S": 0.7, "flipped": 0.1},
                {"step": 9.0, "S": 0.9, "flipped": 0.4},
            ]
        }
    ) == (0.4, 0.7)
    assert (
        mask_moves({}) is mask_moves({"curve": []}) is mask_moves({"curve": [{"step": 1}]}) is None
    )
    for seed, name in ((0, "x"), (1, "y")):
        record = fake_records.record(
            "cast", seed, "pattern", "targets", notes={"curve": CURVE}, made=name
        )
        fake_records.put(
            tmp_path,
            record,
            (),
            [ReadingRow(metric="violated_groups", value=0.0, unit="1", better="lower")],
        )
    (printed,) = table.text_tables(read(tmp_path).records)
    assert printed.lines[0][0] == "cast (2 seeds) (0.6% of the mask flipped, S 0.80 after a tenth)"


@pytest.mark.parametrize(
    ("pattern", "label"),
    [("8:16", "8:16, no hardware"), ("4:8", "4:8, no hardware"), ("50%", "50%"), ("other", "other")]
    + [(p, p) for p in ("2:4", "1:4", "6:8", "dense")],
)
def test_a_pattern_without_hardware_says_so(pattern, label):
    assert hardware.pattern_label(pattern) == label


def test_the_file_of_an_alias_has_the_quality_of_the_dense_row_at_its_own_size(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(board.reproduce, "prune_and_export", lambda record: ("make", "export"))
    fake_records.perplexity(tmp_path, **DENSE)
    fake_records.counted(
        tmp_path, "bits_per_weight", 16.0, measure="size", protocol="weights", **DENSE
    )
    sparse = {
        "method": "wanda",
        "seed": 0,
        "identity": {"model": MODEL, "pattern": "2:4", "quantizer": "int8"},
    }
    fake_records.perplexity(tmp_path, 0.5, **sparse)
    fake_records.counted(
        tmp_path, "bits_per_weight", 5.0, measure="size", protocol="weights", **sparse
    )
    results = read(tmp_path)
    (one,) = board.make_sections([results])[0].tables
    rows = {row.name: row for row in one.rows}
    (near,) = equal_bits.text_tables(results.records)

    assert list(rows) == ["dense", "dense Q4_1 file", "wanda 2:4 int8"]
    assert rows["dense Q4_1 file"].facts.bits == ALIASES[MODEL].file.bits == 5.0
    assert (
        rows["dense Q4_1 file"].facts.ratio.value == 1
        and rows["dense Q4_1 file"].facts.make == f"bench pull {MODEL}"
    )
    assert rows["dense"].facts.bits == 16 and rows["dense"].facts.make
    assert [line[3] for line in near.lines] == ["int8", "Q4_1 file"]
    assert "5.0 bits" in near.title and "5.0 bits" in table.text_tables(results.records)[0].title


def test_a_file_is_not_compared_by_the_size_of_the_model_that_was_made_from_it(tmp_path):
    """Its records are those of the dense model, of 16 bits per weight."""
    fake_records.perplexity(tmp_path, **DENSE)
    fake_records.perplexity(tmp_path, 0.1, noise=1, **PLAIN_INT8)
    for about, bits in ((DENSE, 16.0), (PLAIN_INT8, 8.0)):
        items = [Item("0", "0", bits, 1.0)]
        fake_records.counted(
            tmp_path,
            "bits_per_weight",
            bits,
            measure="size",
            protocol="weights",
            items=items,
            **about,
        )
    (one,) = board.make_sections([read(tmp_path)])[0].tables
    pairs = {
        (one.rows[a].name, one.rows[b].name, one.columns[c].metric): x.value
        for (a, b, c), x in one.intervals.items()
    }

    assert ("dense Q4_1 file", "dense int8", "perplexity") in pairs
    assert {key[:2]: x for key, x in pairs.items() if key[2] == "bits_per_weight"} == {
        ("dense", "dense int8"): -8.0
    }


def test_rows_without_tasks_stand_apart(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    tasks = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=0)
    fake_records.perplexity(tmp_path, 0.2, method="ria", seed=0)
    for method, seed in (("dense", None), ("ria", 0)):
        for task in tasks:
            pattern = "dense" if method == "dense" else "2:4"
            fake_records.accuracy(
                tmp_path,
                method=method,
                seed=seed,
                protocol=f"{task}@1.0",
                identity={"pattern": pattern},
            )
    results = read(tmp_path)
    (one,) = board.make_sections([results])[0].tables
    with_tasks, without = table.text_tables(results.records)
    page = leaderboard.build([tmp_path], tmp_path / "no papers")["leaderboard.md"].decode()

    assert [row.name for row in one.rows] == ["dense", "ria 2:4", "wanda 2:4"], (
        "wanda has no tasks, though it is better"
    )
    assert {line[0] for line in with_tasks.lines} == {"dense", "ria (no channel permutation)"}
    assert [line[0] for line in without.lines] == ["wanda"] and without.title.endswith(
        "rows without tasks"
    )
    assert not any("acc" in header for header in without.headers)
    assert (
        page.index("| ria (") < page.index(leaderboard.WITHOUT_TASKS) < page.index("| wanda | 2:4")
    )


def test_a_trained_row_is_compared_with_the_control_of_its_training(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for tokens, loss in (("1,000", 0.1), ("2,000", 0.4)):
        text = {"training": f"wiki-mini@128x8, {tokens} tokens"}
        fake_records.perplexity(
            tmp_path, loss - 0.3, method="dense-ft", seed=0, identity=text | {"pattern": "dense"}
        )
        fake_records.perplexity(tmp_path, loss, method="cast", seed=0, identity=text)
    (one,) = board.make_sections([read(tmp_path)])[0].tables
    column = next(
        i for i, c in enumerate(one.columns) if c.metric == "perplexity_ratio_to_dense-ft"
    )
    cells = [
        (row.name, row.cells[column] and row.cells[column].text)
        for row in one.rows
        if "seed" not in row.name
    ]

    assert [text.split()[0] for name, text in cells if name == "cast 2:4"] == ["×1.350"] * 2
    assert not any(text for name, text in cells if name != "cast 2:4")


def test_a_bitmap_is_derived_for_older_records():
    half = sizes(
        fake_records.record(measure="size", identity={"pattern": "50%"}),
        bits_per_weight=16.0,
        sparsity=0.5,
    )
    group = sizes(fake_records.record(measure="size"), bits_per_weight=9.0, sparsity=0.5)

    assert [r.value for r in recount.read(half)] == [16.0, 0.5, 9.0]
    assert [row["metric"] for row in to_rows([half])] == [
        "bits_per_weight",
        "sparsity",
        "bits_with_bitmap",
    ]
    assert recount.read(group) == group.readings
    assert [r.metric for r in half.readings] == ["bits_per_weight", "sparsity"], (
        "the record keeps its values"
    )
