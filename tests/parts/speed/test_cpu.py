"""Speed on a CPU: real kernels in the frame, with numbers nobody holds to anything; records; and
what cannot be timed."""

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from bench.inputs import loading
from bench.parts.packed24 import cpu24, native
from bench.parts.packed24.linear24 import swap_linears, use_dense_twins
from bench.parts.packed24.packing import pack, unpack
from bench.parts.packed24.timing import WallClock, WrongProduct
from bench.parts.speed import command as speed
from bench.parts.speed import comparison, cpu, decoding
from bench.parts.speed.engines.ours import _on_kernel
from bench.planning import plan
from bench.results.store import ReadOnlyStore
from bench.verify import WeightCounts
from helpers import fake_records
from helpers.measuring import context_of
from helpers.models import random_folder, store
from helpers.runs import prune, run_here, small, tiny
from methods.contract.codec import FloatCodec, Storage, StoredWeight
from methods.contract.errors import Skipped, UserError
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import find_targets
from methods.workshop.quantizing.grid_codec import GridCodec


@pytest.fixture
def device(kernel, monkeypatch):
    monkeypatch.setattr(cpu, "last_cache_bytes", lambda: 2**16)
    # Short blocks.
    monkeypatch.setattr(comparison.SpeedComparison.run, "__defaults__", (comparison.BLOCKS, 1e-4))
    return cpu.Cpu(1)


def sparse(out, width):
    weight = torch.randn(out, width)
    return torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0).bfloat16()


def decoded(results, method="magnitude", **changes):
    """Run the decoding measurement of one method, and return its record."""
    run_here(small(results, measures=("speed",), **changes), only=(method,))
    records = ReadOnlyStore(results)
    return next(r for r in records if r.identity.protocol.label.startswith("decode"))


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(64, 128), (33, 68)])
def test_a_contest_on_the_cpu(device, kind, shape):
    if (kind, shape[1]) == ("int4", 68):
        with pytest.raises(Skipped, match="no int4 for 68 inputs: a scale is for blocks of 64"):
            device.compare(sparse(*shape), 1, kind)
        return
    got = device.compare(sparse(*shape), 1, kind)
    row = comparison.summarize(got, got.run(device.clock, 10, 1e-4), device.peaks())

    assert set(row["seconds"]) == {"dense", "torch bf16", "2:4", "torch fp32"}
    assert all(0 < t["p20"] <= t["p80"] for t in row["seconds"].values())
    assert row["path"] in native.PATHS and row["noise"] > 0
    weights, scales = {  # per row: bits of 64 dense weights and of 64 of 2:4, and bytes of scales
        "bf16": ((1024, 576), 0),
        "int8": ((512, 320), 4),
        "int4": ((256, 192), 2 * shape[1] / 64),
    }[kind]
    blocks = -(-shape[1] // 64)
    assert [cost.bytes_moved for cost in got.costs] == [
        shape[0] * (blocks * bits / 8 + scales) + 2 * (shape[0] + shape[1]) for bits in weights
    ]


def test_reading_memory_reads_all_of_it(device):
    memory = torch.randint(0, 256, (256 * 9,), dtype=torch.uint8)
    wanted = int(memory.view(torch.int64).sum()) % 2**64
    for threads in (1, 2, 3):
        assert device.kernel.read(memory.data_ptr(), memory.nbytes, threads) == wanted


def test_what_cannot_be_timed_says_so(device, monkeypatch):
    with pytest.raises(UserError, match="weight is not 2:4: row 0 has more than two non-zeros"):
        device.compare(torch.ones(8, 8), 1, "bf16")
    with pytest.raises(UserError, match=r"contains -0\.0"):
        device.compare(-torch.zeros(8, 8), 1, "bf16")
    with pytest.raises(Skipped, match="no fp16: it has bf16, int8, int4"):
        device.compare(sparse(8, 8), 1, "fp16")
    product = cpu24.product
    monkeypatch.setattr(cpu24, "product", lambda *a, **k: product(*a, **k) + 1)
    with pytest.raises(WrongProduct, match="2:4 is off by"):
        device.compare(sparse(8, 8), 1, "bf16")


def test_without_a_kernel_it_is_skipped(monkeypatch):
    def absent():
        raise native.NoKernel("no C++ compiler")

    monkeypatch.setattr(native, "load", absent)
    with pytest.raises(Skipped, match=r"no native kernel: no C\+\+ compiler"):
        cpu.Cpu(1).compare(sparse(8, 8), 1, "bf16")


def test_a_run_measures_decoding_and_says_what_is_missing(device, tmp_path):
    results = tmp_path / "results"
    run_here(small(results, measures=("speed",), quantizers=("none", "int8"), dtype="bfloat16"))

    found = {
        (r.identity.method, r.identity.quantizer, r.identity.protocol.label): r
        for r in ReadOnlyStore(results)
    }
    cuda = found["magnitude", "none", "cuda"]
    assert (cuda.status, cuda.reason, cuda.readings) == ("skipped", "no CUDA device", [])
    for quantizer in ("none", "int8:embed=int8"):
        record = found["magnitude", quantizer, "decode@b1,kv128"]
        assert record.status == "ok", record.reason
        got = [r.metric for r in record.readings]
        assert got == ["tokens_per_s", "tokens_per_s_dense", "speedup"]
        assert all(r.value > 0 for r in record.readings)
        items = ReadOnlyStore(results).items(record)
        assert len(items.ids) == comparison.BLOCKS
        assert {"tokens_per_s_dense", "speedup"} <= set(items.columns)
        assert record.key_inputs["hardware"] and record.notes["kv_tokens"] == 128
        assert record.notes["device"].startswith("CPU, ")
        assert record.notes["dense"] in ("dense", "same kernel, dense")
    dense = found["dense", "none", "decode@b1,kv128"]
    assert [r.metric for r in dense.readings] == ["tokens_per_s"]


@pytest.mark.numeric
def test_the_packed_model_decodes_what_the_dense_one_does(device, tmp_path):
    folder = prune(tiny(tmp_path / "tiny"))
    load = lambda: loading.load(folder, Compute(dtype=torch.bfloat16))  # noqa: E731
    model = load()
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    packed = {
        n: pack(model.get_submodule(n).weight) for n in find_targets(model.config.to_dict(), shapes)
    }
    step = decoding.decode_step(2, 16)
    steps = [step(model), step(swap_linears(load(), packed)),
             step(use_dense_twins(swap_linears(load(), packed)))]  # fmt: skip
    logits = [s() for s in steps]
    assert torch.equal(steps[0](), logits[0])  # the cache is as it was
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0.05, atol=0.1)
    whole = model(torch.randint(1000, (2, 17), generator=torch.Generator().manual_seed(0))).logits[
        :, -1:
    ]
    torch.testing.assert_close(logits[0], whole, rtol=0.05, atol=0.1)


@pytest.mark.numeric
def test_the_dense_twin_of_an_int8_model_keeps_its_packed_head(device, tmp_path):
    folder = prune(tiny(tmp_path / "tiny"))
    source = Folder(folder)
    sparse = _on_kernel(folder, find_targets(source.config, source.shapes()), "int8")
    ids = torch.randint(1000, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        twin, wanted = use_dense_twins(copy.deepcopy(sparse))(ids).logits, sparse(ids).logits
    torch.testing.assert_close(twin, wanted, rtol=0.05, atol=0.1)


def test_models_that_answer_otherwise_are_not_timed():
    logits = torch.randn(2, 1, 64)
    step = lambda model: lambda: model * logits  # noqa: E731
    decoding.check_models(step, {"dense": 1.0, "2:4": 1.01})
    with pytest.raises(WrongProduct, match=r"2:4 is off by 0\.5"):
        decoding.check_models(step, {"dense": 1.0, "same kernel, dense": 1.0, "2:4": 0.5})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"dtype": "float32"},
            "the native kernel has no float32: take --dtype bfloat16, --quant int8 or int4-rtn",
        ),
        ({"dtype": "bfloat16", "patterns": ("4:8",)}, "no kernel for 4:8: only 2:4 has one"),
        (
            {"dtype": "bfloat16", "quantizers": ("int4-rtn",)},
            "whose 352 inputs are no whole blocks of 64",
        ),
        (
            {"dtype": "bfloat16", "quantizers": ("int4-rtn:group=8",)},
            "no 2:4 kernel for the grid of model.layers.0.",
        ),
        ({"dtype": "bfloat16", "quantizers": ("nf4",)}, "only floats, int8 and int4 have one"),
    ],
)
def test_an_artifact_without_a_kernel_is_skipped_with_the_reason(device, tmp_path, changes, reason):
    record = decoded(tmp_path / "r", **changes)
    assert (record.status, record.readings) == ("skipped", []) and reason in record.reason


def test_the_kind_is_that_of_the_stored_weights(tmp_path):
    """Floats of a model made elsewhere have their bits in the record, too."""
    context = context_of(tmp_path, counts=WeightCounts(Pattern(2, 4)))
    elsewhere = {bits: Storage(weights=16, values=2 * bits) for bits in (16, 9, 8)}
    for storage in (None, elsewhere[16], elsewhere[9]):
        assert decoding.find_kind(replace(context, storage=storage)) is None
    with pytest.raises(Skipped, match="made elsewhere: only floats of such a folder have one"):
        decoding.find_kind(replace(context, storage=elsewhere[8]))
    codecs = [GridCodec("integer", bits, 64) for bits in (8, 4, 4)]
    eight, four, other = (StoredWeight(codec, codec.encode(sparse(8, 64))) for codec in codecs)
    floats = StoredWeight(FloatCodec(), {"values": sparse(8, 64)})
    for stored, kind in (
        ({"x": floats}, None),
        ({"x": eight}, "int8"),
        ({"x": four, "y": other}, "int4"),
    ):
        store(stored, tmp_path)
        assert decoding.find_kind(context) == kind
    for mixed in (eight, floats):
        store({"x": four, "y": mixed}, tmp_path)
        with pytest.raises(Skipped, match="only floats, int8 and int4 have one"):
            decoding.find_kind(context)


def test_stored_integers_are_packed_in_the_format_of_the_files(tmp_path):
    """A CPU without products in bfloat16 computes in float32."""
    codec = GridCodec("integer", 8, 64)
    stored = store({"w": StoredWeight(codec, codec.encode(sparse(8, 64)))}, tmp_path, "2:4")
    wide = {"w": stored["w"].decode().bfloat16().float()}
    context = context_of(tmp_path, compute=Compute(dtype=torch.float32, written_as=torch.bfloat16))

    packed = decoding.pack_stored(wide, "int8", context)["w"]
    assert packed.kind == "int8" and torch.equal(unpack(packed), wide["w"].bfloat16())


def test_a_step_of_a_model_with_a_sliding_window_is_the_same_each_time():
    config = MistralConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=64,
    )  # fmt: skip
    torch.manual_seed(0)
    step = decoding._eager_step(MistralForCausalLM(config).eval(), torch.arange(9)[None], {})
    first, *others = (step() for _ in range(4))

    assert all(torch.equal(first, other) for other in others)


def test_fewer_blocks_have_a_speedup_over_the_dense_model(device, tmp_path, monkeypatch):
    """On a clock that only counts blocks. The linears read half of their 32-bit weights, and the
    head as many as before."""
    seconds = itertools.count(0, 1e-9)
    passed = [0.0]

    def step(batch, kv):
        def make(model):
            return lambda: passed.__setitem__(0, passed[0] + model.config.num_hidden_layers)

        return make

    monkeypatch.setattr(decoding, "decode_step", step)
    monkeypatch.setattr(cpu.Cpu, "clock", WallClock(lambda: next(seconds) + passed[0]))
    record = decoded(tmp_path / "r", "depth:drop=50%", methods=("depth:drop=50%",))

    values = {r.metric: round(r.value, 6) for r in record.readings}
    assert record.status == "ok"
    assert values == {"tokens_per_s": 0.5, "tokens_per_s_dense": 0.25, "speedup": 2}
    assert (record.notes["dense"], record.notes["sparse"]) == ("dense", "fewer weights")
    linears, head, cached = 4 * 200_704, 4 * 1024 * 128, 129 * 4 * 2 * 128 * 4
    limit = (4 * linears + head + cached) / (2 * linears + head + cached / 2)
    assert record.notes["limit"] == pytest.approx(limit, rel=0.01)


def test_more_tokens_than_learned_positions_are_skipped_with_the_reason(tmp_path):
    folder = random_folder("gpt2", tmp_path / "gpt2", max_position_embeddings=128)
    found = decoded(tmp_path / "r", models=(str(folder),), dtype="bfloat16")
    assert found.status == "skipped"
    assert found.reason == "the model takes 128 tokens, and this measurement has 129"


def test_other_hardware_is_another_record():
    cells = [
        c
        for c in plan.make_plan(small("r", measures=("speed",))).measurements
        if c.config.get("hardware")
    ]
    other = cells[0].model_copy(update={"config": cells[0].config | {"hardware": "another"}})
    assert other.key != cells[0].key and other.identity == cells[0].identity
    assert other.key_inputs()["hardware"] == "another"


def test_bench_speed_leaves_records(device, tmp_path, cli):
    places = ("--model", tiny(tmp_path / "tiny"), "--results", tmp_path / "r")
    line = "speed --device cpu --kinds bf16,fp16 --threads 1 --json"

    def measured():
        return next(r for r in ReadOnlyStore(tmp_path / "r") if r.status == "ok")

    code, out, _ = cli(line, *places)
    rows = json.loads(out)

    assert code == 0 and {r["kind"] for r in rows} == {"bf16", "fp16"}
    said = [r["status"] for r in rows if r["kind"] == "fp16"]
    assert said == ["skipped: the native kernel has no fp16: it has bf16, int8, int4"]
    timed = [r for r in rows if r["kind"] == "bf16"]
    shapes = ["128 x 128 (16 of them)", "352 x 128 (8 of them)", "128 x 352 (4 of them)"]
    assert [r["what"] for r in timed] == shapes and all(r["2:4_us"] > 0 for r in timed)
    record = measured()
    assert record.identity.method == "magnitude" and record.key_inputs["hardware"]
    cli(line, *places)
    assert measured().provenance == record.provenance, "it is timed again"


def test_an_error_of_a_library_fails_its_record_and_not_the_others(
    device, tmp_path, monkeypatch, cli
):
    compare = type(device).compare

    def broken(self, weight, tokens, kind):
        if kind == "bf16":
            raise RuntimeError("CUDA error: an illegal memory access\nat line 3")
        return compare(self, weight, tokens, kind)

    monkeypatch.setattr(type(device), "compare", broken)
    places = ("--model", tiny(tmp_path / "tiny"), "--results", tmp_path / "r")
    code, out, err = cli("speed --device cpu --kinds bf16,int8 --threads 1 --json", *places)

    assert code == 1 and all(r["2:4_us"] > 0 for r in json.loads(out) if r["kind"] == "int8")
    (failed,) = (r for r in ReadOnlyStore(tmp_path / "r") if r.status == "failed")
    assert failed.reason.endswith("an illegal memory access") and "RuntimeError" in failed.traceback
    assert f"bench show {failed.short_key} --results {tmp_path}/r" in err


@pytest.mark.parametrize(("noise", "warned"), [(0.1, False), (5.56, True)])
def test_a_timing_that_is_not_steady_is_warned_of(capsys, noise, warned):
    for notes in (
        {"shapes": [{"skipped": "x"}, {"noise": noise}]},
        {"noise": {"2:4": 0.01, "dense": noise}},
    ):
        speed._warn_of_noise([fake_records.record(notes=notes)])
        assert ("differ by 556%: stop other programs" in capsys.readouterr().err) == warned
