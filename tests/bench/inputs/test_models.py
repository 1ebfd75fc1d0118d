"""Models by alias: descriptions, cache folders, and a renamed model."""

import json
import os

import pytest

from bench.inputs import models
from helpers import runs

FORMER, NOW = "smollm2-135m", "smollm2-135m-instruct-q4"


pytestmark = pytest.mark.usefixtures("cache")


def pulled(cache, folder, ref):
    """Put tiny's files in a folder of the cache, as if pulled from `ref`."""
    place = runs.tiny(cache / "models" / folder)
    (place / "PULLED.json").write_text(json.dumps({"source": "x", "ref": ref, "revision": "r"}))


def test_every_alias_says_what_it_is():
    assert all(models.describe(name) for name in models.ALIASES)
    assert models.describe(FORMER) == "HuggingFaceTB/SmolLM2-135M"
    assert "Q4_1" in models.describe(NOW) and models.describe("owner/name") == ""


def test_a_renamed_model_is_found_where_it_was_kept_and_is_not_taken_for_the_other(cache):
    pulled(cache, FORMER, models.ALIASES[NOW].ref)

    assert models.resolve(NOW).revision == "r"
    assert models.resolve(FORMER) is None


def test_a_hub_alias_and_its_id_share_one_copy(cache):
    pulled(cache, "HuggingFaceTB--SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M")

    assert models.resolve(FORMER).folder == models.resolve("HuggingFaceTB/SmolLM2-135M").folder


def test_a_typed_former_name_has_a_hint(cli):
    _check_hint(cli("verify", FORMER)[2])


def test_a_search_has_the_hint_too(cli, tmp_path):
    file = tmp_path / "search.toml"
    file.write_text(
        f"models = ['{FORMER}']\n[perplexity]\ndata = 'wiki-mini'\nsplit = 'validation'\n"
        "[search]\ntrials = 1\n[search.fields.ria]\npower = {low = 0.1, high = 2.0}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        _check_hint(cli("search", file, "--results", tmp_path / "results")[2])


def _check_hint(err):
    assert f"bench: {FORMER} is HuggingFaceTB/SmolLM2-135M: the model that had this name before is {NOW}\n" in err


def test_other_weights_of_the_same_size_and_time_have_another_digest(tmp_path):
    file = runs.tiny(tmp_path / "model") / "model.safetensors"
    before, about = models.resolve(str(file.parent)).digest, file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))

    assert models.resolve(str(file.parent)).digest != before
