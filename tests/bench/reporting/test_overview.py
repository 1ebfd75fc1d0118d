"""The short table of a terminal."""

import pytest

from bench.comparing import result_arguments
from bench.reporting import board, overview
from helpers import fake_records, reports
from methods.contract.errors import UserError


def made(root, columns=()):
    results = result_arguments.read(root)
    return overview.make(next(board.boards_of("tiny", results)), columns)


def rows_of(table):
    at = table.headers.index("verdict")
    return {line[0]: line[at] for line in table.lines}


def test_a_row_is_on_the_front_or_tied_or_beaten_among_rows_of_at_most_its_size(tmp_path):
    verdicts = rows_of(made(reports.compressed(tmp_path)).table)

    assert verdicts["dense"] == "reference"
    assert verdicts["dense int8"] == verdicts["small 2:4 int4"] == "front"
    assert verdicts["good 2:4"] == "tied"  # int8 is smaller, and not told apart
    assert verdicts["poor 2:4"] == "beaten"
    assert verdicts["broken 2:4"] == "pattern broken"


def test_sentences_say_who_is_ahead_and_what_would_decide_a_tie(tmp_path):
    for method, loss, noise in (("dense", 0.0, 0), ("good", 0.1, 1), ("twin", 0.1001, 2),
                                ("poor", 0.3, 3)):  # fmt: skip
        pattern = "dense" if method == "dense" else "2:4"
        fake_records.perplexity(
            tmp_path, loss, method=method, noise=noise, identity={"pattern": pattern}
        )

    (sentence,) = made(tmp_path).verdicts
    assert "good and twin are ahead of poor" in sentence
    assert "good and twin cannot be told apart: about " in sentence
    assert sentence.endswith(" more articles would.")


def test_a_default_is_left_out_of_a_label_unless_two_would_be_the_same(tmp_path):
    def names():
        return [line[0] for line in made(tmp_path).table.lines]

    for quantizer in ("none", "int4-gptq:embed=int8"):
        identity = {"pattern": "dense", "quantizer": quantizer}
        fake_records.perplexity(tmp_path, method="dense", identity=identity)
    assert names() == ["dense", "dense int4-gptq"]

    identity = {"pattern": "dense", "quantizer": "int4-gptq"}
    fake_records.perplexity(tmp_path, method="dense", identity=identity)
    assert sorted(names()) == ["dense", "dense int4-gptq", "dense int4-gptq:embed=int8"]


def test_columns_are_chosen_by_name(tmp_path):
    table = made(reports.compressed(tmp_path), ("row", "quantizer", "bits_per_weight")).table

    assert table.headers[:2] == ["row", "quantizer"] and len(table.headers) == 3
    with pytest.raises(UserError, match="unknown column 'bit_per_weight': did you mean"):
        overview.require_columns(["bit_per_weight"])
