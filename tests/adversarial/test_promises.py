"""SECURITY.md promises only what a test shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [
    line.strip("| ").split(" | ")
    for line in TEXT.splitlines()
    if line.startswith("|") and not line.startswith(("| Promise", "|---"))
]


def test_no_promise_is_outside_a_table():
    assert len(ROWS) > 20
    assert {len(row) for row in ROWS} == {2}
    assert len(re.findall(r"^## ", TEXT, re.M)) == 6


@pytest.mark.parametrize(("promise", "test"), ROWS)
def test_each_promise_has_a_test(promise, test):
    file, name = test.strip("`").split("::")
    if file.startswith("tests/parts/") and not (ROOT / file).parent.exists():
        pytest.skip("its part is not there")
    found = re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M)
    assert promise and found, f"{test} does not exist"
