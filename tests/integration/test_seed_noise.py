"""The published noise between seeds."""

import pytest

SCRIPT = "seed_noise"


@pytest.mark.slow
def test_it_is_that_of_results(script):
    assert script.FILE.read_text() == script.make()
