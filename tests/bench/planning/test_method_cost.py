"""What methods are said to cost, against the same arithmetic written out for LLaMA2-7B."""

import json

import pytest

from bench.catalog.declarations import CatalogEntry
from bench.catalog.entries import METHODS
from bench.planning import method_cost
from methods import Cost

LINEARS = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
INPUTS = [4096, 4096, 4096, 11008]
"""Of q, k and v; of o; of gate and up; of down."""
TOKENS = 128 * 2048


def describe_cost(**cost):
    return method_cost.describe(CatalogEntry(target="", cost=Cost(**cost)))


def test_passes_and_hessians():
    flop = TOKENS * (4 * LINEARS + 32 * sum(n * n for n in INPUTS))
    held = sum(4 * n * n for n in INPUTS)

    plain, with_hessians = describe_cost(passes=2), describe_cost(passes=2, hessians=1)
    assert plain == f"2 passes of 128 x 2048 tokens, {2 * 2 * LINEARS * TOKENS:.1e} FLOP"
    assert with_hessians.endswith(f"{flop:.1e} FLOP; {held / 1e9:.1f} GB of Hessians")


@pytest.mark.parametrize("what", ["methods", "measures"])
def test_the_long_list(cli, what):
    code, out, _ = cli("ls", what, "--long", "--json")
    rows = {r["name"]: r for r in json.loads(out)}

    assert code == 0
    if what == "methods":
        assert rows["cast"]["trains"] == "yes" and rows["wanda"]["trains"] == "no"
        assert rows["sparseml-magnitude"]["installed_by"] == "bench env create sparseml"
        theirs = rows["llmcompressor-wanda"]["installed_by"]
        assert theirs == "pip install 'cast-bench[llmcompressor]'"
        assert rows["wanda"]["installed_by"] == ""
        assert rows["wanda"]["estimated_on_llama2_7b"] == method_cost.describe(METHODS["wanda"])
    else:
        assert all("trains" not in r for r in rows.values())
