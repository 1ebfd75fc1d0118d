"""A row of a folder in GPTQ's layout."""

import pytest
from safetensors.torch import load_file

from bench.results.store import ReadOnlyStore
from helpers import packers, runs
from methods.contract.errors import UserError


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "m"
    packers.folder(
        folder, lambda w: packers.gptq(w, 4), {"quant_method": "gptq", "bits": 4, "group_size": 16}
    )
    return folder


@pytest.mark.parts("folders")
def test_a_quantized_folder_has_the_bits_of_its_files_and_no_second_quantizer(quantized, tmp_path):
    label = f"folder:path={quantized}"
    spec = {"methods": (label,), "measures": ("size",), "quantizers": ("none", "int8")}

    got = runs.measured(tmp_path / "r", only=(label,), **spec)

    (record,) = [r for r in got.values() if r.identity.measure == "size"]
    assert (record.identity.pattern, record.identity.quantizer) == ("dense", "none")
    values = {r.metric: r.value for r in record.readings}
    stored = load_file(quantized / "model.safetensors")
    parts = ("qweight", "qzeros", "scales", "g_idx")
    packed = sum(t.nbytes for n, t in stored.items() if n.endswith(parts))
    weights = sum(t.numel() * 8 for n, t in stored.items() if n.endswith("qweight"))
    assert values["bits_per_weight"] == pytest.approx(8 * packed / weights)
    assert values["bytes"] == values["bytes_packed"] == sum(t.nbytes for t in stored.values())
    store = ReadOnlyStore(tmp_path / "r")
    assert record.key in {r.key for r in store} and not store.damaged

    with pytest.raises(UserError, match=r"is quantized already .*: add none to --quant"):
        runs.run_here(runs.small(tmp_path / "r", methods=(label,), quantizers=("int8",)))


def test_verify_reads_a_quantized_folder(quantized, cli):
    code, out, _ = cli("verify", quantized, "--pattern", "2:4")

    assert code == 1 and "q_proj" in out
