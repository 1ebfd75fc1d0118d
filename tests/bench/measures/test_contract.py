"""A measure that somebody else writes needs the contract, the record and `methods`."""

import ast
import textwrap

import torch

from bench.catalog.entries import MEASURES
from bench.catalog.registry import load
from bench.measures import contract
from bench.planning.spec import Spec

EXAMPLE = textwrap.dedent(
    "    from " + contract.__doc__.partition("\n\n    from ")[2].partition("\n\nA measure that")[0]
)
ALLOWED = {
    "bench.measures.contract",
    "bench.results.record",
    "methods.contract.method",
    "methods.contract.measure_info",
}


def test_the_example_imports_nothing_else_of_the_suite():
    modules = {n.module for n in ast.walk(ast.parse(EXAMPLE)) if isinstance(n, ast.ImportFrom)}
    assert {m for m in modules if m.startswith(("bench", "methods"))} == ALLOWED


def test_the_example_measures():
    names = {}
    exec(compile(EXAMPLE, "example", "exec", dont_inherit=True), names)
    model = torch.nn.Linear(2, 1, bias=False)
    model.requires_grad_(False).weight.copy_(torch.tensor([[3.0, 4.0]]))
    readings = names["MaxNorm"]().read(lambda: model, None)
    assert [(r.metric, r.value) for r in readings.values] == [("max_norm", 5.0), ("mean_norm", 5.0)]
    assert [item.value for item in readings.items] == [5.0] and readings.notes == {}
    assert {metric.name for metric in names["MaxNorm"].info.metrics} == {"max_norm", "mean_norm"}


def test_the_settings_of_every_measure_are_a_table_of_a_run():
    kinds = [getattr(load(entry), "settings", None) for entry in MEASURES.values()]
    tables = {kind.table: kind for kind in kinds if kind}
    assert {table: type(getattr(Spec(), table)) for table in tables} == tables
    assert {"perplexity", "continuation", "zeroshot", "answers"} <= set(tables)
