"""One leaderboard a model: which rows are in it, what they cost, and how they compare with the
dense model."""

import math
import re
from statistics import geometric_mean

import pytest

from bench.comparing.result_arguments import read
from bench.reporting import board, forest, hardware, searches
from bench.reporting.cost import CostIndex
from bench.reporting.folders import read_boards
from bench.reporting.protocol import group_by_protocol
from bench.results.identity import CalibrationText
from bench.results.record import Item, ReadingRow
from helpers import fake_records, reports, runs
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern


def tables(*roots, **options):
    (section,) = board.make_sections([read(root) for root in roots], **options)
    return section.tables


def whole(table):
    return [table.rows[k].name for k in table.whole_rows]


def cell(table, name, metric):
    row = next(r for r in table.rows if r.name == name)
    return next(x for x, c in zip(row.cells, table.columns, strict=True) if c.metric == metric)


def facts(table, name):
    return next(r.facts for r in table.rows if r.name == name)


def test_rows_of_all_folders_share_a_table_and_the_newest_record_wins(tmp_path):
    fake_records.perplexity(tmp_path / "a", method="dense")
    fake_records.perplexity(tmp_path / "a", 0.5, method="wanda", seed=0, made="old")
    fake_records.perplexity(tmp_path / "b", 0.1, method="sparsegpt", seed=0)
    newer = {"provenance": {"recorded": "2026-02-01T00:00:00Z"}}
    fake_records.perplexity(tmp_path / "b", 0.3, method="wanda", seed=0, made="new", **newer)
    (table,) = tables(tmp_path / "a", tmp_path / "b")
    assert whole(table) == ["dense", "sparsegpt 2:4", "wanda 2:4"]
    assert facts(table, "wanda 2:4").loss.value == pytest.approx(math.expm1(0.3), abs=1e-5)
    assert "perplexity ratio wiki-mini@128" in [c.name for c in table.columns]


@pytest.mark.parametrize(
    ("field", "what"), [("key_inputs", "model tiny"), ("token_digest", "content of wiki-mini@128")]
)
def test_a_row_of_an_older_model_or_text_is_neither_averaged_nor_compared(
    tmp_path, cli, field, what
):
    before, after = ({"model": n} if field == "key_inputs" else n for n in "ab")
    new = {field: after, "provenance": {"recorded": "2026-02-01T00:00:00Z"}}
    old = fake_records.perplexity(tmp_path, 0.3, method="wanda", seed=0, **{field: before})
    fake_records.perplexity(tmp_path, 0.4, method="wanda", seed=1, **new)
    fake_records.perplexity(tmp_path, method="dense", **new)

    (section,) = board.make_sections([read(tmp_path)])
    (table,) = section.tables
    assert whole(table) == ["dense", "wanda 2:4"]
    assert facts(table, "wanda 2:4").loss.value == pytest.approx(math.expm1(0.4), abs=1e-5)
    assert f"1 older record left out (in record {old.short_key} the {what}" in section.description
    code, out, err = cli("report", "--results", tmp_path)
    assert (code, err.count("left out"), "50.6" in out, "seed" in out) == (0, 1, True, False)
    code, out, err = cli("pick", "--model", "tiny", "--results", tmp_path)
    assert (code, err.count("1 older record left out"), "49.2%" in out) == (0, 1, True)


def test_equal_answers_of_rows_without_an_artifact_are_not_certain(tmp_path):
    """Imported records have none, and here one of the rows has scores of another task."""
    for method in ("wanda", "ria"):
        fake_records.accuracy(tmp_path, n=50, method=method)
    fake_records.answers(tmp_path, method="wanda")
    ((_, _, c), interval), *_ = (table := tables(tmp_path)[0]).intervals.items()
    assert table.columns[c].metric == "acc"
    assert interval.value == 0
    assert interval.low < -0.02 < 0.02 < interval.high


def test_protocols_have_tables_of_their_own_the_one_of_most_rows_first(tmp_path):
    """A validation split is never the main one."""
    narrow = {"dtype": "bfloat16"}
    for method in ("wanda", "ria", "magnitude"):
        fake_records.perplexity(tmp_path, method=method, identity=narrow)
    for method in ("wanda", "ria"):
        fake_records.perplexity(tmp_path, method=method)
    fake_records.perplexity(tmp_path, identity=narrow, protocol="wiki-mini@64")
    for i in range(9):
        about = {"protocol": "wiki-mini-validation@128", "identity": narrow}
        fake_records.perplexity(tmp_path, method=f"m{i}", **about)
    labels = [t.protocol for t in tables(tmp_path)]
    assert labels[:2] == ["wiki-mini@128, bfloat16, cpu", "wiki-mini@128, float32, cpu"]
    assert labels[-1] == "wiki-mini-validation@128, bfloat16, cpu"


def test_a_protocol_whose_rows_have_tasks_comes_before_one_of_more_rows(tmp_path):
    for method in ("wanda", "ria", "sparsegpt"):
        fake_records.perplexity(tmp_path, method=method, protocol="wiki-mini@64")
    fake_records.perplexity(tmp_path, method="alps")
    assert [t.protocol.split(",")[0] for t in tables(tmp_path)] == ["wiki-mini@64", "wiki-mini@128"]
    fake_records.accuracy(tmp_path, method="alps")
    assert [t.protocol.split(",")[0] for t in tables(tmp_path)] == ["wiki-mini@128", "wiki-mini@64"]


def test_calibration_texts_are_not_mixed(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for text in ("c4@128x64", "wiki-mini@128x64"):
        fake_records.perplexity(tmp_path, 0.1, seed=0, identity={"calibration": text})
    one, other = tables(tmp_path)
    assert {one.protocol, other.protocol} == {
        f"wiki-mini@128, float32, cpu, calibrated on {text}" for text in ("c4", "wiki-mini")
    }
    assert whole(one) == whole(other) == ["dense", "wanda 2:4"]


def test_budgets_and_seeds_fold_into_the_largest_budget(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for tokens, loss in ((1000, 0.3), (4000, 0.1), (2000, 0.2)):
        for seed in (0, 1):
            training = {"training": f"wiki-mini@128x8, {tokens:,} tokens"}
            fake_records.perplexity(
                tmp_path, loss, method="cast", seed=seed, noise=seed + 1, identity=training
            )
    (table,) = tables(tmp_path)
    assert whole(table) == ["dense", "cast 2:4"]
    assert facts(table, "cast 2:4").loss.value == pytest.approx(math.expm1(0.1), rel=1e-3)
    parts = [k for k, row in enumerate(table.rows) if row.part_of is not None]
    assert sum("seed" in table.rows[k].name for k in parts) == 6 and len(parts) == 6 + 2
    assert len(table.to_text_table().lines) == 2, "tables as text have whole rows alone"
    assert {ranks[k] for ranks in table.ranks.values() for k in parts} == {""}


def test_rows_of_other_settings_do_not_fold(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    for text in ("32, 4,000 tokens", "8, 4,000 tokens", "8, 4,000 tokens, recipe small"):
        training = {"training": f"wiki-mini@128x{text}"}
        fake_records.perplexity(tmp_path, 0.1, method="cast", seed=0, identity=training)
    for every in (False, True):
        one = fake_records.perplexity(tmp_path / "other", method="wanda", seed=0, made=str(every))
        items = fake_records.read_items(tmp_path / "other" / "items" / f"{one.stem}.parquet")
        calibration = CalibrationText(data="wiki-mini", all_experts=every)
        other = fake_records.of_identity(one, calibration=calibration)
        fake_records.put(tmp_path, other, items, one.readings)
    (table,) = tables(tmp_path)
    assert sorted(whole(table)) == ["cast 2:4"] * 3 + ["dense"] + ["wanda 2:4"] * 2
    assert len({row.labels for row in table.rows}) == 6, "and their labels tell them apart"


def test_the_control_is_dense_ft_alone_with_its_usual_settings(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    training = {"training": "wiki-mini@128x8, 4,000 tokens"}
    identity = training | {"pattern": "dense"}
    for method, loss in (("dense-ft", 0.2), ("dense-ft:lr=1e-3", 0.1), ("dense-ft:lr=9.0", 0.9)):
        fake_records.perplexity(tmp_path, loss, method=method, identity=identity)
    fake_records.perplexity(tmp_path, 1.5, method="dense-ft + sparsegpt", identity=training)
    fake_records.perplexity(tmp_path, 0.4, method="cast", identity=training)
    (table,) = tables(tmp_path)
    assert facts(table, "cast 2:4").control_loss.value == pytest.approx(math.expm1(0.2), rel=1e-3)
    assert facts(table, "dense-ft dense").control_loss is None


def test_a_question_flips_once_whatever_the_number_of_seeds(tmp_path):
    fake_records.accuracy(tmp_path, method="dense")
    for seed in (0, 1, 2):
        fake_records.accuracy(tmp_path, 100, 60, method="wanda", seed=seed)
    fake_records.accuracy(tmp_path, 100, 60, method="sparsegpt", seed=0)
    (table,) = tables(tmp_path)
    one, three = (facts(table, f"{name} 2:4").flips for name in ("sparsegpt", "wanda"))
    assert three.changed.parts == pytest.approx(one.changed.parts)
    assert three.lost == pytest.approx(one.lost)


def build(root, seconds, tokens=0, **about):
    row = ReadingRow(metric="sparsity", value=0.5, unit="1", better="higher")
    about = {"measure": "pattern", "protocol": "targets", "token_digest": ""} | about
    made = fake_records.record(
        cost={"build_s": seconds, "calibration_tokens": tokens}, key_inputs={"threads": 2}, **about
    )
    fake_records.put(root, made, (), [row])
    return made


def test_a_cost_is_that_of_all_stages(tmp_path):
    first = build(tmp_path, 0.3, 1000, method="sparsegpt", seed=0)
    second = build(tmp_path, 0.2, 5000, method="sparsegpt + retrain", seed=0)
    about = {"method": "sparsegpt + retrain", "seed": 0}
    last = build(tmp_path, 0.1, identity={"quantizer": "int8"}, **about)
    cost = CostIndex([first, second, last]).of_row([last.identity])
    assert (cost.seconds, cost.tokens, cost.device) == (0.6, 6000, "EPYC, 2 threads")
    assert not cost.at_least
    assert CostIndex([last, second]).of_row([last.identity]).at_least, "without the first stage"
    assert CostIndex([first]).of_row([last.identity]) is None


def tasks(root, lost, **about):
    for k, task in enumerate(reports.WANDA7):
        fake_records.accuracy(root, lost * (k + 1), protocol=f"{task}@1.0x1000", **about)


def test_the_mean_of_wanda7_and_its_worst_task_with_an_interval(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=0)
    tasks(tmp_path, 0, method="dense")
    tasks(tmp_path, 10, method="wanda", seed=0)
    (table,) = tables(tmp_path)
    assert cell(table, "wanda 2:4", "mean_acc").value == pytest.approx(0.46)
    one = facts(table, "wanda 2:4")
    assert one.worst_task == "rte" and one.drop.value == pytest.approx(0.07)
    assert 0.045 < one.drop.low < 0.07 < one.drop.high < 0.1
    (alone,) = (
        i for (_, _, c), i in table.intervals.items() if table.columns[c].protocol.startswith("rte")
    )
    assert one.drop.low < -alone.high
    assert one.drop.high > -alone.low, "wider than that of one task, because it is of seven"
    assert "7.0 pp" in cell(table, "wanda 2:4", "worst_drop").text
    shown = [c.metric for c in table.columns if not c.hidden]
    assert shown == ["perplexity", "perplexity_ratio", "mean_acc", "worst_drop", "flips"]


def test_worst_tasks_have_intervals_with_a_prompt_and_a_limit(tmp_path):
    for lost, about in ((0, {"method": "dense"}), (10, {"method": "wanda", "seed": 0})):
        for k, task in enumerate(reports.WANDA7):
            one = fake_records.accuracy(
                tmp_path / "plain", lost * (k + 1), protocol=f"{task}@1.0x1000", **about
            )
            protocol = one.identity.protocol.model_copy(update={"prompt": "5-shot"})
            items = fake_records.read_items(tmp_path / "plain" / "items" / f"{one.stem}.parquet")
            other = fake_records.of_identity(one, protocol=protocol)
            fake_records.put(tmp_path / "prompted", other, items, one.readings)
    (table,) = tables(tmp_path / "prompted")
    one = facts(table, "wanda 2:4")
    assert one.worst_task == "rte" and one.drop.low < 0.07 < one.drop.high and one.flips


def test_a_speed_stands_beside_the_same_artifact_whatever_measured_its_quality(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=0)
    times = (1.4, 1.5, 1.45, 1.55)
    items = [Item(str(i), str(i), 1.0, 1.0, {"speedup": t}) for i, t in enumerate(times)]
    about = {"measure": "speed", "protocol": "prefill@512", "seed": 0, "items": items}
    about["beside"] = {"tokens_per_s": 1.0}
    about |= {"identity": {"device": "cuda"}, "provenance": {"machine": {"device": "H100"}}}
    fake_records.counted(tmp_path, "speedup", geometric_mean(times), better="higher", **about)
    (table,) = tables(tmp_path)
    bound = facts(table, "wanda 2:4").speedup
    assert bound.value == pytest.approx(1.4739, abs=1e-4)
    assert 1.3 < bound.low < 1.47 < bound.high < 1.6
    (name,) = (c.name for c in table.columns if c.metric == "speedup")
    assert name == "speedup prefill@512 on cuda, H100"
    assert facts(table, "dense").speedup is None


def test_speeds_without_a_dense_model_beside_them_are_shown(tmp_path):
    about = {"measure": "speed", "protocol": "decode@b1,kv128", "method": "dense"}
    about |= {"items": [Item("0", "0", 104.0, 1.0)]}
    fake_records.counted(tmp_path, "tokens_per_s", 104.0, **about)
    (table,) = tables(tmp_path)
    assert [c.metric for c in table.columns if not c.hidden] == ["tokens_per_s"]


def test_a_row_that_breaks_its_pattern_says_so(tmp_path):
    fake_records.perplexity(tmp_path, method="dense")
    fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=0)
    fake_records.counted(tmp_path, "violated_groups", 7.0, method="wanda", seed=0)
    (table,) = tables(tmp_path)
    assert whole(table) == ["dense", "wanda 2:4 (pattern broken)"]
    assert any(c.metric == "violated_groups" and not c.hidden for c in table.columns)
    assert forest.forest_rows(table) == [], "no figure shows it as a row of its pattern"


def test_weights_of_one_record_are_those_of_the_whole_row(tmp_path):
    first = fake_records.perplexity(tmp_path, method="dense")
    fake_records.perplexity(tmp_path, method="wanda")
    url = "https://example.org/tiny/dense"
    (tmp_path / "about.toml").write_text(f'[weights]\n{first.key[:12]} = "{url}"\n')

    (section,) = board.make_sections([read(tmp_path)])

    found = {name: record["weights"] for name, record in section.records.items()}
    assert found == {name: url if name == first.stem else "" for name in found} and len(found) == 2


# --- searches -------------------------------------------------------------------------------------


@pytest.mark.parts("leaderboard")
def test_a_search_is_a_folder_that_says_so_or_has_validation_splits_alone(tmp_path):
    from bench.parts.leaderboard import board_files as leaderboard

    fake_records.perplexity(tmp_path / "run", method="dense")
    fake_records.perplexity(tmp_path / "lr", protocol="wiki-mini-validation@128", method="dense")
    fake_records.perplexity(tmp_path / "grid", method="dense")
    (tmp_path / "grid/about.toml").write_text('kind = "grid"\nabout = "Three budgets."\n')
    found = {name: searches.is_search(read(tmp_path / name)) for name in ("run", "lr", "grid")}
    assert found == {"run": False, "lr": True, "grid": True}
    files = leaderboard.build([tmp_path / name for name in found], tmp_path / "none")
    page, other = files["leaderboard.html"].decode(), files["leaderboard-searches.html"].decode()
    assert 'href="leaderboard-searches.html"' in page and 'href="leaderboard.html"' in other
    assert (
        ">grid<" in other and ">lr<" in other and ">grid<" not in page and 'id="pick"' not in other
    )
    alone = leaderboard.build([tmp_path / "lr"], None)["leaderboard.html"].decode()
    assert "in 1 row.</p>" in page and "quality, size and speed.</p>" in alone
    with pytest.raises(UserError, match="only searches"):
        read_boards([tmp_path / "lr"], "tiny")


@pytest.mark.parametrize("text", ['kind = "other"\n', 'kind = "search"\nname = "x"\n'])
def test_an_invalid_about_is_refused(tmp_path, text):
    fake_records.perplexity(tmp_path, method="dense")
    (tmp_path / "about.toml").write_text(text)
    with pytest.raises(UserError, match="kind"):
        searches.is_search(read(tmp_path))


# --- pictures -------------------------------------------------------------------------------------


def test_the_hardware_limit_of_a_pattern():
    limits = {"2:4": 2.0, "6:8": 4 / 3, "4:6": 1.5, "1:4": 2.0}
    limits |= {"2:8": 2.0, "pairs:4:8": 2.0, "pairs:2:4": 2.0}
    limits |= dict.fromkeys(("4:8", "8:16", "50%", "pairs:6:8", "2:4 + r16"))
    assert {p: hardware.hardware_limit(Pattern.parse(p)) for p in limits} == limits
    # Cores with 4-bit operands have pairs:4:8, and no 2:4.
    limits |= dict.fromkeys(("2:4", "6:8", "4:6"))
    for quantizer in ("nvfp4-w4a4:group=16", "mxfp4-w4a4"):
        found = {p: hardware.hardware_limit(Pattern.parse(p), quantizer) for p in limits}
        assert found == limits


@pytest.mark.parts("leaderboard")
def test_what_a_pattern_costs_is_drawn_where_a_method_has_several(tmp_path):
    from bench.parts.leaderboard import table_figures

    fake_records.perplexity(tmp_path, method="dense")
    for method, shift in (("wanda", 0.1), ("sparsegpt", 0.0)):
        for pattern, loss in (("2:4", 0.4), ("4:8", 0.3), ("6:8", 0.1), ("50%", 0.2)):
            about = {"method": method, "seed": 0, "noise": 3, "identity": {"pattern": pattern}}
            fake_records.perplexity(tmp_path, loss + shift, **about)
    fake_records.perplexity(tmp_path, 0.4, method="ria", seed=0)
    (table,) = tables(tmp_path)
    assert set(table_figures.pattern_ratios(table)) == {"wanda", "sparsegpt"}, "ria has one pattern"
    ratios, patterns = table_figures.draw_all(table, "tiny")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", patterns.svg)
    assert [t for t in texts if ":" in t or "%" in t] == ["2:4", "4:8", "50%", "6:8"]
    assert [t for t in texts if t == "none" or "×" in t] == ["2×", "none", "none", "1.33×"]
    marker = r'<title>(\w+ [26]:[48]):[^<]*</title>.*?<use [^>]*y="([\d.]+)"'
    y = {name: float(height) for name, height in re.findall(marker, patterns.svg)}
    assert y["wanda 2:4"] < y["sparsegpt 2:4"] < y["sparsegpt 6:8"], "higher is worse"
    names = re.findall(r"<text[^>]*>(\w+ \d[^<]*)</text>", ratios.svg)
    assert sorted(names) == sorted(row for row, _ in forest.forest_rows(table)) and len(names) == 9
    assert "<title>sparsegpt 6:8: ×1.105 (" in ratios.svg


def test_every_record_has_a_place(tmp_path):
    kinds = (("perplexity", "w@128"), ("agreement", "v@128"), ("size", "weights"))
    records = [
        fake_records.record(method, None, *kind, identity={"dtype": dtype})
        for method in "ab"
        for kind in kinds
        for dtype in ("float32", "bfloat16")
    ]
    grouped = group_by_protocol(records)
    assert {r.key for of_group in grouped.values() for r in of_group} == {r.key for r in records}


def test_a_record_in_two_folders_is_of_the_one_that_it_was_taken_from(tmp_path):
    newer = {"provenance": {"recorded": "2026-02-01T00:00:00Z"}}
    fake_records.perplexity(tmp_path / "a", 0.3, **newer)
    fake_records.perplexity(tmp_path / "b", 0.1)
    results = [read(tmp_path / name) for name in ("a", "b")]
    (about,) = board.make_sections(results)[0].records.values()
    merged = board.merge(results)
    assert about["folder"] == str(tmp_path / "a")
    values, taken = (r.items(r.records[0]).columns["value"] for r in (merged, results[0]))
    assert (values == taken).all()


def test_a_measure_says_which_of_its_metrics_a_leaderboard_shows(tmp_path, monkeypatch):
    """Also one of a plug-in, if it is installed."""
    source = (
        "from methods.contract.measure_info import MeasureInfo, Metric\nclass Norm:\n"
        "    info = MeasureInfo(metrics=(Metric('max_norm', '1', on_board=True),))\n"
    )
    fake_records.counted(tmp_path / "r", "max_norm", 3.0, measure="norm")
    fake_records.counted(tmp_path / "r", "bytes", 3.0, measure="size")
    fake_records.bits(tmp_path / "r", 3.0)

    def shown():
        return [c.metric for c in tables(tmp_path / "r")[0].columns if not c.hidden]

    assert shown() == ["bytes_packed", "bits_per_parameter", "bits_per_weight"]
    runs.put_on_path(
        runs.distribution(tmp_path, "norms", source, measures={"norm": "norms:Norm"}), monkeypatch
    )
    assert shown() == ["bytes_packed", "bits_per_parameter", "bits_per_weight", "max_norm"]
    monkeypatch.undo()
    runs.forget()
