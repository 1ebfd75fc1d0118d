"""A plan divided among machines: everything once, the same on each, about equal."""

import pytest

from bench import api
from bench.parts.cluster import shards
from bench.parts.cluster.shards import choose_shard, divide
from bench.planning.plan import make_plan
from helpers import runs
from methods.contract.errors import UserError

METHODS = ("magnitude", "wanda", "sparsegpt", "cast")


@pytest.fixture
def plan(tmp_path):
    return make_plan(
        runs.small(tmp_path / "r", methods=METHODS, seeds=(0, 1), quantizers=("none", "int8"))
    )


@pytest.mark.parametrize("count", [1, 3, 40])
def test_every_measurement_is_in_one_shard_in_the_order_of_the_plan(plan, count):
    parts = divide(plan, count)
    keys = [m.key for m in plan.measurements]

    assert sorted(m.key for part in parts for m in part.measurements) == sorted(keys)
    for part in parts:
        own = [m.key for m in part.measurements]
        assert own == [key for key in keys if key in set(own)]
    held = [set(part.artifacts()) for part in parts]
    assert sum(map(len, held)) == len(set.union(*held)), "an artifact is made by one of them"


def test_the_division_is_the_same_whatever_is_done(plan, monkeypatch):
    runs.workers_here(monkeypatch)
    before = [set(part.artifacts()) for part in divide(plan, 3)]
    part = {"methods": ("magnitude",), "quantizers": ("none",), "seeds": (0,)}
    api.execute(plan.spec.model_copy(update=part))

    assert [set(part.artifacts()) for part in divide(make_plan(plan.spec), 3)] == before


def test_the_longest_are_apart(plan, monkeypatch):
    unquantized = [k for k, ms in plan.artifacts().items() if ms[0].artifact.quantizer == "none"]
    work = dict(zip(unquantized, [8.0, 1.0, 1.0, 7.0, 2.0, 2.0, 5.0, 0.0], strict=True))
    count = lambda group: sum(work.get(ms[0].artifact.key, 0) for ms in group)  # noqa: E731
    monkeypatch.setattr(shards, "count_operations", count)
    loads = [sum(work.get(key, 0) for key in part.artifacts()) for part in divide(plan, 3)]

    assert sorted(loads) == [8.0, 9.0, 9.0]


def test_a_model_and_its_quantized_version_stay_together(plan):
    for part in divide(plan, 3):
        rows = {
            (m.artifact.method, m.artifact.seed if m.artifact.seed is not None else 0)
            for m in part.measurements
        }
        for method, seed in rows:
            own = {
                m.artifact.quantizer
                for m in part.measurements
                if m.artifact.method == method and m.artifact.seed in (seed, None)
            }
            assert own == {"none", "int8:embed=int8"}, method


def test_a_spec_takes_its_part(tmp_path):
    spec = runs.small(tmp_path / "r", methods=METHODS)
    parts = [api.plan(spec.model_copy(update={"shard": f"{i}/3"})) for i in (1, 2, 3)]
    wanted = divide(make_plan(spec), 3)

    assert [part.measurements for part in parts] == [part.measurements for part in wanted]


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "a/b", "1/4/2", "²/4"])
def test_what_is_no_shard_is_a_sentence(text):
    with pytest.raises(UserError, match=r"^invalid shard .*I from 1 to N,"):
        choose_shard(text)


def test_an_empty_part_has_no_table_to_print_again(cache, tmp_path, output):
    small = "run --methods magnitude --quant none --measures size --shard 2/4 --results"
    said = output(small, tmp_path / "r").splitlines()[-1]
    assert said == f"0 measurements run, 0 read from {tmp_path}/r"
