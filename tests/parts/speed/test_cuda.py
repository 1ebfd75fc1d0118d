"""CUDA in the frame. Without a device: every operator is held against its schema, where a CPU build
has one. What is marked `cuda` waits for a card."""

import sys
import types
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GptOssConfig, Phi3Config

from bench.inputs import kv_cache
from bench.inputs.shapes import planned_model
from bench.parts.packed24.timing import CudaClock, WallClock, WrongProduct, capture_graph
from bench.parts.speed import comparison, cuda, decoding, linears, measure, time_linears
from bench.parts.speed.cpu import Cpu
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore
from bench.system import nvidia_smi
from bench.system.devices import EAGER
from helpers import fake_smi
from helpers.fake_cuda import Sparse, bind
from helpers.runs import prune, tiny
from methods.contract.errors import Skipped
from methods.contract.method import Compute
from methods.contract.pattern import Pattern

KINDS = cuda.KINDS
CAPTURE = capture_graph
LLAMA_LINEARS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def sparse(out, width):
    weight = torch.randn(out, width)
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """card(...) -> a device that is none: a Hopper whose operators check how they are called and
    answer on the CPU."""

    def int_mm(*args):
        given = bind("_int_mm", args, {})
        assert len(given["self"]) > 16 and given["mat2"].stride(0) == 1
        # Exact; a CPU's int8 product saturates without VNNI.
        product = given["self"].double() @ given["mat2"].double()
        return product.to(torch.int32)

    def scaled_mm(*args, **kwargs):
        given = bind("_scaled_mm", args, kwargs)
        assert given["mat2"].stride(0) == 1 and given["scale_a"].dtype == torch.float32
        assert given["scale_a"].shape == (len(args[0]), 1)
        assert given["scale_b"].shape == (1, args[1].shape[1])
        y = given["self"].float() @ given["mat2"].float() * given["scale_a"] * given["scale_b"]
        return y.to(given["out_dtype"])

    def convert(*args):
        weight = bind("_convert_weight_to_int4pack", args, {})["self"]
        assert weight.dtype == torch.uint8
        return weight

    def int4_mm(*args):
        given = bind("_weight_int4pack_mm", args, {})
        out, width = len(given["mat2"]), given["self"].shape[1]
        assert given["qScaleAndZeros"].shape == (width // given["qGroupSize"], out, 2)
        return torch.empty(len(given["self"]), out)

    def make(capability=(9, 0), wrong=None, library=True):
        fakes = Sparse(monkeypatch, tmp_path, wrong)
        monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: library)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")
        monkeypatch.setattr(torch, "compile", lambda work, **how: work)
        monkeypatch.setattr(torch, "_int_mm", int_mm)
        monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
        monkeypatch.setattr(torch, "_weight_int4pack_mm", int4_mm)
        monkeypatch.setattr(torch, "_convert_weight_to_int4pack", convert)
        monkeypatch.setattr(cuda, "capture_graph", lambda work: work)
        monkeypatch.setattr(cuda, "CudaClock", lambda: fakes)
        monkeypatch.setattr(cuda.Cuda, "cache_bytes", 2**10)
        device = cuda.Cuda(torch.device("cpu"), peak_size=32, copy_bytes=2**12)
        device.fakes = fakes
        return device

    return make


@pytest.fixture
def torchao(monkeypatch):
    """The two operators that torchao defines; their schemas are not in torch, so only the shapes
    are held."""
    ops = types.ModuleType("torchao.ops")

    def compress(weight):
        assert weight.dtype == torch.float8_e4m3fn and weight.is_contiguous()
        return weight, weight[:, ::8]

    def product(x, by_x, weight, meta, by_weight, bias, out_dtype):
        assert by_x.shape == (len(x),) and by_weight.shape == (len(weight),) and bias is None
        y = x.float() @ weight.float().T
        return (y * by_x[:, None] * by_weight).to(out_dtype)

    ops.to_sparse_semi_structured_cutlass_sm9x_f8 = compress
    ops.rowwise_scaled_linear_sparse_cutlass_f8f8 = product
    whole = types.ModuleType("torchao")
    whole.ops = ops
    monkeypatch.setitem(sys.modules, "torchao", whole)
    monkeypatch.setitem(sys.modules, "torchao.ops", ops)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 128])
def test_every_kind_is_called_as_the_schemas_say(card, torchao, kind, tokens):
    device = card()
    got = device.compare(sparse(64, 128), tokens, kind)

    assert set(got.dense) == {"dense eager", "dense compiled"}
    assert set(got.sparse) == {"2:4 cusparselt"} | ({"2:4 cutlass"} if kind == "fp8" else set())
    eager = {f"{n}, no graph" for n in (*got.dense, *got.sparse)}
    assert set(got.others) == eager | ({"dense fp8", "dense int4"} if kind == "bf16" else set())
    assert got.notes["cusparselt"]["plan"] == {"alg_id": 4, "split_k": 2, "split_k_mode": 1}
    assert got.calls == got.notes["copies"] >= 3 * 2**10 / (64 * 128 * 2)
    assert device.fakes.calls[-1]["dense_B"].shape[1] == max(16, tokens)  # padded
    dense, less = got.costs
    assert dense.flops == 2 * less.flops == 2 * tokens * 64 * 128
    bits = 8 if kind in ("int8", "fp8") else 16
    assert dense.bytes_moved - less.bytes_moved == 64 * 128 * (bits - (bits / 2 + 1)) / 8
    # Int8 products give int32.
    of_input, of_output = {"int8": (1, 4), "fp8": (1, 2)}.get(kind, (2, 2))
    assert dense.bytes_moved == 64 * 128 * bits / 8 + tokens * (128 * of_input + 64 * of_output)
    timings = got.run(WallClock(), 10, 1e-5)
    row = comparison.summarize(got, timings, device.peaks())
    assert row["dense"] in got.dense


def test_a_wrong_algorithm_is_named_and_not_timed(card):
    device = card(wrong=4)
    got = device.compare(sparse(64, 128), 1, "bf16")
    notes = got.notes["cusparselt"]
    assert notes["plan"]["alg_id"] != 4
    assert any("algorithm 4 (split_k 2) is off" in w for w in notes["wrong"])
    assert notes["refused"] == 1 and notes["tried"] == 13


def test_what_the_card_or_the_libraries_lack_is_said(card, monkeypatch):
    for shape, kind in (((24, 128), "bf16"), ((64, 136), "int8"), ((48, 128), "fp8")):
        with pytest.raises(Skipped, match=f"no {kind} product of .*: only of multiples of"):
            card().compare(sparse(*shape), 1, kind)
    with pytest.raises(Skipped, match="no cuSPARSELt"):
        card(library=False).compare(sparse(64, 128), 1, "bf16")
    for below in ((8, 0), (8, 9)):
        with pytest.raises(Skipped, match=rf"capability 9\.0, and this card has 8\.{below[1]}"):
            card(capability=below).compare(sparse(64, 128), 1, "fp8")
    assert (
        card(capability=(10, 0)).compare(sparse(64, 128), 1, "fp8").notes["cutlass"]
        == "not a Hopper device"
    )
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert (
        "pip install 'cast-bench[torchao]'"
        in card().compare(sparse(64, 128), 1, "fp8").notes["cutlass"]
    )

    def refuse(*args, **kwargs):
        raise RuntimeError("no int4 here\nand a stack")

    device = card()
    monkeypatch.setattr(torch, "_convert_weight_to_int4pack", refuse)
    got = device.compare(sparse(64, 128), 1, "bf16")
    assert got.notes["dense int4"] == "none here: no int4 here" and "dense int4" not in got.others


def test_whole_models_run_as_graphs_where_steps_are_small(card, monkeypatch):
    device = card()
    make = lambda model: lambda: model  # noqa: E731
    models = {"dense": torch.ones(3)}, {"2:4": torch.ones(3)}
    dense, packed, beside = device.steps(*models, make, True)
    assert set(dense) == {"dense", "dense compiled"} and set(packed) == {"2:4", "2:4 compiled"}
    assert set(beside) == {f"{name}, no graph" for name in (*dense, *packed)}
    assert device.steps(*models, make, False)[2] == {}
    monkeypatch.setattr(torch, "compile", lambda model, **how: 2 * model)
    with pytest.raises(WrongProduct, match="dense compiled is off by 1 of"):
        device.steps(*models, make, True)
    assert device.engine("bf16") == device.engine("fp16") == "cusparselt"
    with pytest.raises(Skipped, match="bench speed times int8 layer by layer"):
        device.engine("int8")


def test_what_cannot_be_captured_is_timed_eagerly_with_a_note(card, monkeypatch):
    """The fault is torch's own: a CPU build has no CUDA graph."""
    device = card()
    monkeypatch.setattr(cuda, "capture_graph", CAPTURE)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: types.SimpleNamespace(wait_stream=print))
    monkeypatch.setattr(torch.cuda, "current_stream", torch.cuda.Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    got = device.compare(sparse(64, 128), 1, "bf16")

    reasons = got.notes["not_captured"]
    assert set(reasons) == {*got.dense, *got.sparse, "dense fp8", "dense int4"}
    assert all("CUDAGraph" in reason for reason in reasons.values())
    row = comparison.summarize(got, got.run(WallClock(), 10, 1e-5), device.peaks())
    assert row["speedup"] > 0 and row["not_captured"] == reasons

    def refuse(work):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(cuda, "capture_graph", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        device.compare(sparse(64, 128), 1, "bf16")


def test_random_inputs_need_no_generator_of_a_failed_capture(card, monkeypatch):
    """The capture of a failed graph leaves torch's own generator unusable."""
    device, weight = card(), sparse(64, 128)
    before = torch.get_rng_state()
    device.compare(weight, 1, "bf16")
    device.peaks()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fault_of_one_shape_costs_that_shape_alone(card, monkeypatch):
    device = card()
    real = device.compare

    def compare(weight, tokens, kind):
        if len(weight) == 64:
            raise RuntimeError("no kernel image is available\nand a stack")
        return real(weight, tokens, kind)

    monkeypatch.setattr(device, "compare", compare)
    device.clock = WallClock()
    weights = [(1, sparse(32, 128)), (2, sparse(64, 128))]
    got = linears.time_linears(device, iter(weights), 1, "bf16")
    timed, failed = got.notes["shapes"]
    assert timed["speedup"] > 0 and failed["skipped"] == "failed: no kernel image is available"
    assert [r.metric for r in got.values] == ["shapes_timed"]
    with pytest.raises(RuntimeError, match="no kernel image"):
        linears.time_linears(device, iter(weights[1:]), 1, "bf16")


def test_a_shape_that_does_not_fit_is_skipped_with_its_sizes(card, monkeypatch):
    device = card()
    device.clock = WallClock()

    def compare(weight, tokens, kind):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")

    monkeypatch.setattr(device, "compare", compare)
    with pytest.raises(Skipped, match=r"^does not fit: .* Tried to allocate 2\.00 GiB$"):
        linears.time_linears(device, iter([(1, sparse(32, 128))]), 1, "bf16")


def test_a_record_of_a_card_s_timing_holds_its_state(card, monkeypatch, tmp_path):
    device = card()
    device.clock = WallClock()
    run = comparison.SpeedComparison.run
    monkeypatch.setattr(comparison.SpeedComparison, "run", lambda *args: run(*args, 12, 1e-5))
    monkeypatch.setattr(linears, "select_device", lambda compute: device)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", print, raising=False)
    about = types.SimpleNamespace(uuid=fake_smi.H100.split(",")[0].removeprefix("GPU-"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    fake_smi.install(monkeypatch, tmp_path, fake_smi.H100)
    request = time_linears.LinearTimingRequest("tiny", "cuda", 1, ("bf16",), (16,), None)
    (record,) = time_linears.measure(request, tmp_path / "r")
    (read,) = ReadOnlyStore(tmp_path / "r")

    state = read.notes["card"]
    assert record.status == "ok" and set(state) == {"before", "after"}
    assert state["before"]["driver"] == "550.54.15"
    assert state["after"] == state["before"] == nvidia_smi.describe("cuda")


class Operators(TorchDispatchMode):
    """Records the operators that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, kinds, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1000, "max_position_embeddings": 64,
    "sliding_window": 4,
}  # fmt: skip
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
WINDOWED = {
    "gemma3": Gemma3TextConfig(**SIZES, **LAYERS),
    "gpt_oss": GptOssConfig(**SIZES, **LAYERS, num_local_experts=2, num_experts_per_tok=1),
    "phi3": Phi3Config(**SIZES, pad_token_id=0, eos_token_id=1, bos_token_id=1),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_a_step_with_a_full_window_reads_nothing_of_the_host(name):
    """What a CUDA graph refuses: a constant of the host, and a value that the host reads."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(WINDOWED[name]).eval()
    ids = torch.arange(9).repeat(2, 1)
    step = decoding._eager_step(model, ids, {})
    with Operators() as ran:
        logits = step()
    assert not ran.names & {"lift_fresh", "_local_scalar_dense", "nonzero"}
    assert torch.equal(step(), logits)
    torch.testing.assert_close(logits, model(ids).logits[:, -1:], rtol=1e-4, atol=1e-5)


def test_models_of_one_config_share_a_cache(monkeypatch):
    monkeypatch.setenv(EAGER, "1")
    made = []
    real = kv_cache.make_full
    monkeypatch.setattr(kv_cache, "make_full", lambda *args: made.append(args) or real(*args))
    models = [AutoModelForCausalLM.from_config(WINDOWED["phi3"]).eval() for _ in range(2)]
    make = decoding.decode_step(2, 8)
    ids = torch.randint(1000, (2, 9), generator=torch.Generator().manual_seed(0))
    for model in models:
        torch.testing.assert_close(make(model)(), model(ids).logits[:, -1:], rtol=1e-4, atol=1e-5)
    assert len(made) == 1
    make(AutoModelForCausalLM.from_config(WINDOWED["gemma3"]).eval())
    assert len(made) == 2


@pytest.fixture
def llama2_7b():
    """A folder that has the config and the shapes of LLaMA2-7B, and no weights."""
    facts = planned_model("llama2-7b")
    return types.SimpleNamespace(config=facts.config, shapes=lambda: facts.shapes)


def test_the_memory_of_a_comparison_is_that_of_a_hand_calculation(llama2_7b, monkeypatch):
    """LLaMA2-7B in bfloat16: one cache of 16 sequences has 17 GB, and four had 69 GB."""
    monkeypatch.setattr(decoding, "Folder", lambda path: llama2_7b)
    linears_ = [f"model.layers.{i}.{name}" for i in range(32) for name in LLAMA_LINEARS]
    context = types.SimpleNamespace(
        folder="own", source="own", compute=Compute(dtype=torch.bfloat16),
        counts=types.SimpleNamespace(layers=linears_, pattern=Pattern(2, 4)),
    )  # fmt: skip
    pruned = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    others = 2 * 32000 * 4096 + 65 * 4096
    found = decoding.step_memory(context, 16, 1, 2048)
    assert found.dense == 2 * (pruned + others)
    assert found.faster == pruned * 9 / 8 + 2 * others
    assert found.cache == 16 * 2049 * 2 * 32 * 4096 * 2 == 17_188_257_792
    assert round(4 * found.cache / 1e9) == 69
    assert decoding.step_memory(context, 1, 512, 0).cache == 0
    context.counts.pattern = Pattern.parse("dense")
    assert decoding.step_memory(context, 16, 1, 2048).faster == 0

    device = cuda.Cuda(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    about = types.SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    with decoding.within_memory(device, found):
        pass
    sizes = r"13\.5 GB of dense weights, 7\.8 GB of pruned ones and {} GB of KV cache"
    context.counts.pattern = Pattern(2, 4)
    large = decoding.step_memory(context, 64, 1, 2048)
    before = sizes.format(r"68\.8") + r" do not fit in the 80\.0 GB of a card"
    with pytest.raises(Skipped, match=before), decoding.within_memory(device, large):
        pytest.fail("nothing is loaded")
    late = sizes.format(r"17\.2") + " and the products' buffers do not fit"
    with pytest.raises(Skipped, match=late), decoding.within_memory(device, found):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError), decoding.within_memory(Cpu(1), large):
        raise torch.OutOfMemoryError("of a CPU")


def test_time_is_read_between_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, other):
            assert log[-1] == "waited"
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("waited"))
    assert CudaClock().measure(lambda: log.append("work"), 2) == [2e-3, 2e-3]
    assert log == ["event", "work", "event"] * 2 + ["waited"]


def test_a_card_has_a_measurement_for_every_workload(monkeypatch):
    monkeypatch.setattr(measure, "fingerprint", lambda device: "a card")
    context = types.SimpleNamespace(devices=("cuda",), run=Spec())
    protocols = [
        measure.Speed(**planned.config).protocol.label for planned in measure.Speed.plan(context)
    ]
    assert protocols[:3] == [f"decode@b{b},kv2048" for b in (1, 16, 64)]
    assert protocols[3:6] == [f"prefill@{p}" for p in (512, 2048, 8192)]
    assert protocols[6:] == [f"linears@{t}" for t in (1, 16, 64, 512, 2048, 8192)]


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 512])
def test_a_comparison_on_a_card(kind, tokens):
    device = cuda.Cuda(torch.device("cuda"))
    weight = sparse(1024, 2048).bfloat16()
    try:
        got = device.compare(weight, tokens, kind)
    except Skipped as why:
        pytest.skip(str(why))
    row = comparison.summarize(got, got.run(device.clock, 10), device.peaks())
    assert row["speedup"] > 0 and row["limit"] >= 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_whole_model_on_a_card(tmp_path):
    from bench.inputs import loading
    from bench.parts.packed24.linear24 import swap_linears
    from bench.parts.packed24.packing import pack
    from bench.parts.speed import decoding
    from methods.contract.method import Compute
    from methods.model.targets import find_targets

    compute = Compute(device=torch.device("cuda"), dtype=torch.bfloat16)
    folder = prune(tiny(tmp_path / "tiny"))
    model = loading.load(folder, compute)
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    packed = {
        n: pack(model.get_submodule(n).weight) for n in find_targets(model.config.to_dict(), shapes)
    }
    swapped = swap_linears(loading.load(folder, compute), packed, engine="cusparselt")
    steps = [decoding.decode_step(2, 16)(m) for m in (model, swapped)]
    logits = [s().clone() for s in steps]
    torch.testing.assert_close(logits[1], logits[0], rtol=0.05, atol=0.1)
    replay = cuda.capture_graph(steps[1])
    for _ in range(3):  # the cache is as it was after each
        replay()
    torch.testing.assert_close(steps[1](), logits[1])
