"""Models on packed weights answer as the masked dense model does."""

import pytest
import torch

from baselines.magnitude import Magnitude
from bench.formats.writing import export_model
from bench.inputs import loading
from bench.parts.packed24 import cpu24, linear24, native
from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.linear24 import MAX_PORTABLE_ROWS, Linear24, pack_head, swap_linears
from bench.parts.packed24.packing import pack, unpack
from bench.system.devices import KERNEL_PATH
from helpers import folders
from helpers.fake_cuda import Sparse
from helpers.models import job_for, sample
from helpers.runs import prune, tiny
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import dense_weight, find_targets
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, round_inputs

IDS = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))


def masked(model, dtype=torch.float32):
    """The model 2:4, and its targets packed."""
    model = model.to(dtype)
    job = job_for(model)
    Magnitude().apply(model, job)
    return model, {
        name: pack(dense_weight(model.get_submodule(name)), name) for name in job.targets
    }


@pytest.mark.numeric
def test_the_reference_is_the_masked_model_bit_for_bit(make, family):
    model, packed = masked(make(family))
    logits = model(IDS).logits
    text = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0)
    swap_linears(model, packed)
    assert sum(isinstance(m, Linear24) for m in model.modules()) == len(packed)
    assert all(model.get_submodule(n).engine == "reference" for n in packed)
    assert torch.equal(model(IDS).logits, logits)
    assert torch.equal(model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0), text)
    assert all(
        torch.equal(dense_weight(model.get_submodule(n)), unpack(p)) for n, p in packed.items()
    )


def test_one_row_need_not_be_a_matrix(llama):
    model, packed = masked(llama)
    name, kept = next(iter(packed.items()))
    swap_linears(model, packed)
    row = torch.ones(kept.shape[1])
    assert torch.equal(model.get_submodule(name)(row), model.get_submodule(name)(row[None])[0])


@pytest.mark.numeric
def test_the_kernel_is_the_masked_model_up_to_rounding(make, family, kernel):
    model, packed = masked(make(family), torch.bfloat16)
    wide = make(family)  # the same weights, in float32
    wide.load_state_dict({n: t.float() for n, t in model.state_dict().items()})
    wanted, usual = wide(IDS[:1]).logits, model(IDS[:1]).logits
    swap_linears(model, packed)
    assert all(model.get_submodule(n).engine == "native" for n in packed)
    got = model(IDS[:1]).logits
    # As near as torch's own bfloat16.
    assert 0 < (got - wanted).abs().max() <= 2 * (usual - wanted).abs().max()
    assert all(
        torch.equal(dense_weight(model.get_submodule(n)), unpack(p)) for n, p in packed.items()
    )
    many = IDS.repeat(9, 1)  # more rows than the kernel takes
    torch.testing.assert_close(model(many).logits[:1], got, rtol=0.05, atol=0.05)


def test_inputs_are_rounded_where_they_were(llama):
    """Those of w8a8."""
    model, packed = masked(llama)
    plain = model(IDS).logits
    for name in packed:
        round_inputs(model.get_submodule(name))
    wanted = model(IDS).logits
    assert not torch.equal(wanted, plain)
    assert torch.equal(swap_linears(model, packed)(IDS).logits, wanted)


@pytest.mark.parametrize("form", ["mxfp4", "nvfp4"])
def test_inputs_are_rounded_before_windows_repeat_them(form, tmp_path):
    """Else a group that shares a scale would have repeated inputs, and others than in the dense
    model."""
    folder = prune(tiny(tmp_path / "pruned"), pattern="6:8")
    source = Folder(folder)
    targets = list(find_targets(source.config, source.shapes()))
    folders.config(**{ACTIVATIONS_KEY: {"format": form, "bits": 4, "targets": targets}})(folder)
    export_model(str(folder), "packed24", tmp_path / "packed", windows="6:8")
    model = linear24.load(tmp_path / "packed", Compute(), engine="reference")
    wanted = loading.load(folder, Compute())(IDS).logits
    assert float((model(IDS).logits - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers_are_the_dequantized_model(llama, kind):
    model, packed = masked(llama)
    rounded = {n: pack_rounded(unpack(p), kind) for n, p in packed.items()}
    for name, weight in rounded.items():
        dense_weight(model.get_submodule(name)).copy_(unpack(weight))
    wanted = model(IDS).logits
    swap_linears(model, rounded)
    torch.testing.assert_close(model(IDS[:, :1]).logits, wanted[:, :1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model(IDS).logits, wanted, rtol=1e-3, atol=1e-3)


def test_small_weights_lie_in_one_piece_of_memory_and_large_ones_do_not(llama, monkeypatch, kernel):
    _, packed = masked(llama)
    rounded = {n: pack_rounded(unpack(p), "int8") for n, p in packed.items()}
    laid = {n: cpu24.to_kernel_layout(p).memory for n, p in rounded.items()}
    large = max(memory.nbytes for memory in laid.values())
    monkeypatch.setattr(linear24, "LARGE", large)
    swap_linears(llama, rounded, engine="native")
    places = {True: [], False: []}
    for name, wanted in laid.items():
        memory = llama.get_submodule(name).kernel_weight.memory
        assert torch.equal(memory, wanted)
        assert memory.nbytes >= large or memory.data_ptr() % 64 == 0
        places[memory.nbytes < large].append(memory.untyped_storage().data_ptr())
    (shared,) = set(places[True])
    assert shared not in places[False] and places[False]


@pytest.mark.numeric
@pytest.mark.parametrize("path", native.PATHS)
def test_many_rows_meet_the_weights_of_few(llama, monkeypatch, path, kernel):
    """The portable path multiplies many rows by the unpacked weights, in the model's dtype."""
    if path not in kernel.paths:
        pytest.skip(f"this processor has no {path}")
    monkeypatch.setenv(KERNEL_PATH, path)
    model, packed = masked(llama)
    model = swap_linears(
        pack_head(model), {n: pack_rounded(unpack(p), "int8") for n, p in packed.items()}
    )
    many = torch.randint(64, (1, MAX_PORTABLE_ROWS + 1), generator=torch.Generator().manual_seed(0))
    for side in (model, linear24.use_dense_twins(model)):
        torch.testing.assert_close(
            side(many[:, :9]).logits, side(many).logits[:, :9], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("dtype", sample((torch.float32, torch.bfloat16), torch.bfloat16))
def test_a_packed_folder_loads_on_its_packed_weights(make, keep_as, tmp_path, family, dtype):
    folder = prune(keep_as(make(family).to(dtype), tmp_path / "dense"))
    export_model(str(folder), "packed24", tmp_path / "packed")
    compute = Compute(dtype=dtype)
    model = linear24.load(tmp_path / "packed", compute, engine="reference")
    wanted = loading.load(folder, compute)
    # An expert's weights begin anywhere in a tensor of all: products round by that.
    for parameter in wanted.parameters():
        parameter.data = parameter.data.clone()
    assert torch.equal(model(IDS).logits, wanted(IDS).logits)
    targets = [m for m in model.modules() if isinstance(m, Linear24)]
    weights = sum(m.in_features * m.out_features for m in targets)
    assert 8 * sum(m.nbytes for m in targets) / weights == 8 * dtype.itemsize / 2 + 1
    assert not any(p.is_meta for p in model.parameters())


def test_a_folder_whose_shapes_are_not_those_of_its_config_is_refused(llama, keep_as, tmp_path):
    """The kernel would read behind the end of its inputs."""
    export_model(str(prune(keep_as(llama, tmp_path / "dense"))), "packed24", tmp_path / "packed")
    folders.config(hidden_size=llama.config.hidden_size // 2)(tmp_path / "packed")
    with pytest.raises(UserError, match=r"and by its config\.json"):
        linear24.load(tmp_path / "packed", Compute())


def test_a_folder_may_be_text_and_a_dtype_is_no_compute(tmp_path):
    with pytest.raises(UserError, match=r"^compute is 'bfloat16': give methods\.contract\.Compute"):
        linear24.load(str(tmp_path), "bfloat16")
    with pytest.raises(UserError, match="cannot be read as packed24"):
        linear24.load(str(tmp_path), Compute())
    with pytest.raises(
        UserError, match="unknown engine 'nativ': give native, cusparselt, reference, or None"
    ):
        linear24.Linear24(pack(torch.zeros(16, 32), "x"), None, engine="nativ")


@pytest.mark.numeric
@pytest.mark.parametrize("bias", [True, False])
def test_cusparselt_is_called_as_its_schemas_say(monkeypatch, tmp_path, bias):
    fakes = Sparse(monkeypatch, tmp_path)
    weight = torch.randn(24, 32)
    weight = torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0)
    offset = torch.randn(24) if bias else None
    layer = Linear24(pack(weight), offset, engine="cusparselt")
    for x in (torch.randn(3, 32), torch.randn(2, 5, 32), torch.randn(1, 17, 32)):
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, offset))
    assert fakes.searches == [(32, 16), (32, 32)]  # once a padded size
    last = fakes.calls[-1]
    assert (last["alg_id"], last["split_k"], last["split_k_mode"]) == (4, 2, 1)
    assert torch.equal(layer.dense_weight(), weight)


def test_cusparselt_reads_whole_rows(monkeypatch, tmp_path):
    """The library ignores strides, so a view that is part of wider rows is copied."""
    Sparse(monkeypatch, tmp_path)
    layer = Linear24(pack(torch.eye(32)), None, engine="cusparselt")
    wide = torch.randn(16, 40)
    torch.testing.assert_close(layer(wide[:, :32]), wide[:, :32])


def test_an_algorithm_that_is_wrong_is_not_taken(monkeypatch, tmp_path):
    fakes = Sparse(monkeypatch, tmp_path, wrong=4)
    layer = Linear24(pack(torch.eye(16)), None, engine="cusparselt")
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), x)
    assert fakes.calls[-1]["alg_id"] != 4
    (choice,) = layer.cusparselt_weight.choices.values()
    # Alone, found, split.
    assert len(choice.errors) == 7 and all("algorithm 4" in error for error in choice.errors)
    assert choice.refusal_count == 1


def test_a_choice_is_kept_for_its_device_alone(monkeypatch, tmp_path):
    fakes = Sparse(monkeypatch, tmp_path)
    x = torch.randn(3, 16)
    for device, searches in (("a card", 1), ("a card", 1), ("another", 2)):
        fakes.device = device
        layer = Linear24(pack(torch.eye(16)), None, engine="cusparselt")
        torch.testing.assert_close(layer(x), x)
        assert layer.cusparselt_weight.choices[16].plan == (4, 2, 1)
        assert len(fakes.searches) == searches
