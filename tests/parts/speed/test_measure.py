"""What the measure `speed` times, and what it refuses."""

from types import SimpleNamespace

import pytest

from bench import api
from bench.api import Spec
from bench.parts.speed import linears
from bench.parts.speed.measure import Speed
from bench.system import products
from bench.verify import WeightCounts
from methods.contract.errors import Skipped, UserError
from methods.contract.pattern import Pattern


def test_it_times_torchs_own_products(monkeypatch):
    monkeypatch.setattr(products, "has_instructions_for", lambda dtype: dtype == "float32")
    monkeypatch.setattr(linears, "select_device", lambda compute: None)
    monkeypatch.setattr(linears, "read_linears", lambda *_: list(products._installed))
    context = SimpleNamespace(counts=SimpleNamespace(term_parameters=0), compute=None)
    products.use_float32(wanted=True)
    try:
        assert Speed(workload="linears").read(lambda: None, context) == []
    finally:
        products.use_float32(wanted=False)


def test_no_kernel_is_timed_without_its_term():
    counts = WeightCounts(Pattern.parse("2:4 + r8"), term_parameters=5)
    with pytest.raises(Skipped, match="low-rank term"):
        Speed(tokens=1).read(lambda: None, SimpleNamespace(counts=counts))


def test_it_is_a_time_of_one_machine():
    with pytest.raises(UserError, match="a time of one machine"):
        api.plan(Spec(methods="cast", executor="ray", measures="speed"))
