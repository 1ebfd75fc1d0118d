"""Timings of whole models in several engines, as a record for each engine, kind of weight and step."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.functional import cross_entropy

from bench.execution.engines.contract import Contestant, Engine, Step
from bench.execution.engines.llama_cpp import LlamaCpp
from bench.execution.engines.onnx_runtime import OnnxRuntime
from bench.execution.engines.ours import Native, Torch
from bench.execution.engines.tensor_rt import TensorRt
from bench.execution.measure import rows_of
from bench.execution.versions import DENSE, SPARSE, ModelVersions
from bench.inputs import loading, models
from bench.inputs.windows import load_windows
from bench.kernels.timing import Clock, CudaClock, WallClock
from bench.measures.contract import Readings
from bench.measures.speed.comparison import REPEAT_SUFFIX, Timings, interleave
from bench.measures.speed.cpu import Cpu
from bench.measures.speed.roofline import ACTIVATION_BYTES, count_cached
from bench.results.identity import Identity
from bench.results.record import DONE, Item, Reading, Record
from bench.results.store import Store
from bench.system import digests, provenance
from bench.system.cache import in_use, temporary_folder
from bench.system.devices import fingerprint, select_card
from bench.system.source_digest import digest_source
from methods.errors import Skipped, UserError
from methods.files import find_file

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Native, Torch, OnnxRuntime, LlamaCpp, TensorRt)}
"""Engines that `bench speed --engine` takes."""
BLOCK_S = 0.2
"""Approximate length of a block in seconds."""
BLOCKS = 12
TEXT, WINDOWS, SEQLEN = "wiki-mini", 4, 256
"""Text of the perplexity beside each speed, and its windows."""
CPU_TOKENS, CUDA_TOKENS = 128, 2048
"""Default number of tokens in the KV cache of a decoding step, and in a prompt."""


@dataclass(frozen=True)
class ModelTimingRequest:
    """A model, its 2:4 version, and the steps and engines to time.

    engines: names, in the order of the rows; tokens: in the KV cache of a decoding step, and in a prompt; sparse: a folder or
    name of the model's 2:4 version; steps: decode, prefill, or both.
    """

    model: str
    device: str
    threads: int
    engines: tuple[str, ...]
    tokens: tuple[int, ...]
    data_dir: Path | None
    sparse: str | None = None
    steps: tuple[str, ...] = ("decode", "prefill")


def measure(
    request: ModelTimingRequest,
    results: Path,
    say: Callable[[str], None],
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[Record]:
    """Yield each record. The engines of a request are timed together, so all of a step's records are made, or none.

    advance: called with the number of rounds that are done, and of all rounds.

    Raises:
        UserError: unknown model, or an engine that cannot run here; nothing is loaded before.
    """
    engines = [ENGINES[name]() for name in request.engines]
    for engine in engines:
        engine.require(request.device)
    model = _resolve(request.model, request.data_dir)
    sparse = _resolve(request.sparse, request.data_dir) if request.sparse else None
    store = Store(results)
    torch.set_num_threads(request.threads)
    select_card(request.device)
    with in_use(), temporary_folder("engines") as workdir:
        versions = ModelVersions(model, workdir, sparse)
        steps = [
            Step(*step)
            for n in request.tokens
            for step in (("decode", 1, n), ("prefill", n, 0))
            if step[0] in request.steps
        ]
        made = [
            (step, [_new_record(request, versions, e, kind, step, engines) for e in engines for kind in e.kinds])
            for step in steps
        ]
        known = {r.key: old for _, records in made for r in records if (old := store.get(r.key)) and old.status in DONE}
        new = [step for step, records in made if not all(r.key in known for r in records)]
        done = itertools.count(1)

        def after_round() -> None:
            advance(next(done), len(new) * BLOCKS)

        for step, records in made:
            if step in new:
                yield from _time(request, versions, step, engines, records, store, say, after_round)
            else:
                yield from (known[record.key] for record in records)


def _resolve(name: str, data_dir: Path | None) -> models.Model:
    model = models.resolve(name, data_dir)
    if model is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return model


TIMED = (
    "bench.execution.engines.contract", "bench.execution.versions", "bench.export.gguf_file", "bench.export.llama_cpp",
    "bench.export.onnx_file", "bench.export.onnx_model",
)  # fmt: skip
"""Modules that make what an engine runs. They decide no other number, so digests follow no import of theirs."""


def _new_record(
    request: ModelTimingRequest,
    versions: ModelVersions,
    engine: Engine,
    kind: str,
    step: Step,
    engines: Sequence[Engine],
) -> Record:
    identity = Identity(
        model=request.model,
        stages=(versions.method,) if engine.sparse else ("dense",),
        pattern=SPARSE if engine.sparse else DENSE,
        quantizer=engine.kinds[kind],
        measure="speed",
        protocol=step.protocol(engine.name),
        dtype=kind,
        device=request.device.split(":")[0],
    )
    key_inputs = {
        "model": versions.model.digest,
        "measure": {"name": "speed", "source": digest_source(__name__, *TIMED, *(type(e).__module__ for e in engines))},
        "engine": {"name": engine.name} | engine.about(), "in_turn": {e.name: e.about() for e in engines},
        "kind": kind, "step": step._asdict(), "threads": request.threads, "hardware": fingerprint(request.device),
    }  # fmt: skip
    if versions.sparse and engine.sparse:
        key_inputs["sparse"] = versions.sparse.digest
    return Record(key=digests.of(key_inputs), identity=identity, key_inputs=key_inputs, status="ok")


def _time(
    request: ModelTimingRequest,
    versions: ModelVersions,
    step: Step,
    engines: Sequence[Engine],
    records: Iterable[Record],
    store: Store,
    say: Callable[[str], None],
    after_round: Callable[[], object],
) -> Iterator[Record]:
    entered: dict[tuple[str, str], dict[str, Contestant]] = {}
    clock: Clock = CudaClock() if request.device.startswith("cuda") else WallClock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # names of arguments that transformers will change
        for engine in engines:
            say(f"{step.name}: loading {engine.name}")
            for contestant in engine.contestants(versions, step, request.device, request.threads):
                entered.setdefault((engine.name, contestant.kind), {})[contestant.side] = contestant
        works = {_name(*key, side): c.work for key, sides in entered.items() for side, c in sides.items()}
        say(f"{step.name}: timing {len(works)} models in turn, {BLOCKS} blocks of each, twice")
        context = _context(request, versions, step, entered)
        timings = interleave(works, clock, repeat=works, blocks=BLOCKS, block_s=BLOCK_S, after_round=after_round)
    for record in records:
        engine_name, kind = record.identity.protocol.engine, record.identity.dtype
        sides = entered[engine_name, kind]
        record.provenance = provenance.gather()
        items = _fill(record, engine_name, kind, sides, step, timings)
        record.notes |= {"in_turn": list(works), "threads": request.threads, "kv_tokens": step.kv}
        record.notes |= {"prompt_tokens": step.prompt, "engine": record.key_inputs["engine"], "load": context.load}
        if request.sparse and SPARSE in sides:
            record.notes["sparse"] = Path(request.sparse).name
        record.notes |= context.of(engine_name, kind, sides)
        store.write(record, items)
        yield record


@dataclass(frozen=True)
class _Context:
    """Conditions and quality of the timings of a step.

    load: mean number of running processes of the last minute, before the timing; bandwidth: bytes per second; cached: bytes of
    keys and values that the step reads, in 16 bits; perplexity: of each contestant, by engine, kind and side.
    """

    load: float
    bandwidth: float | None
    cached: int
    perplexity: Mapping[tuple[str, str, str], float]

    def of(self, engine: str, kind: str, sides: Mapping[str, Contestant]) -> dict[str, Any]:
        """Return the notes of a record."""
        cached = self.cached * (2 if kind == "fp32" else 1)
        read = {side: c.nbytes + cached for side, c in sides.items() if c.nbytes and cached}
        quality = {
            side: self.perplexity[engine, kind, side] for side in sides if (engine, kind, side) in self.perplexity
        }
        notes: dict[str, Any] = {"bytes_per_token": read} if read else {}
        if quality:
            notes |= {"perplexity": quality, "perplexity_of": f"{TEXT}, {WINDOWS} windows of {SEQLEN} tokens"}
        return notes | ({"bandwidth": self.bandwidth} if self.bandwidth else {})


def _context(
    request: ModelTimingRequest,
    versions: ModelVersions,
    step: Step,
    entered: Mapping[tuple[str, str], Mapping[str, Contestant]],
) -> _Context:
    """Measure the bandwidth of the threads and perplexities, for decoding on a CPU."""
    load, config = psutil.getloadavg()[0], versions.source.config
    if step.name != "decode" or request.device != "cpu":
        return _Context(load, None, 0, {})
    with contextlib.suppress(Skipped):  # no native kernel
        bandwidth = Cpu(request.threads).peaks().bandwidth
        return _Context(
            load, bandwidth, step.kv * count_cached(config) * ACTIVATION_BYTES, _perplexities(versions, entered)
        )
    return _Context(load, None, 0, {})


def _perplexities(
    versions: ModelVersions, entered: Mapping[tuple[str, str], Mapping[str, Contestant]]
) -> dict[tuple[str, str, str], float]:
    """Return the perplexity of each contestant that gives logits, on a short text; none for a folder without a tokenizer."""
    if not find_file(versions.model.folder, "tokenizer.json"):
        return {}
    tokenizer = loading.load_tokenizer(versions.model.folder)
    windows, _ = load_windows(TEXT, tokenizer, SEQLEN, WINDOWS, None)
    out = {}
    for (engine, kind), sides in entered.items():
        for side, contestant in sides.items():
            if contestant.logits:
                losses = [cross_entropy(contestant.logits(w)[:-1].float(), w[1:]).item() for w in windows]
                out[engine, kind, side] = math.exp(sum(losses) / len(losses))
    return out


def _name(engine: str, kind: str, side: str) -> str:
    return f"{engine} {kind} {side}"


def _fill(
    record: Record, engine: str, kind: str, sides: Mapping[str, Contestant], step: Step, timings: Timings
) -> tuple[Item, ...]:
    """Write readings and notes into a record. Returns its items: a block each, the same one in all records of a turn."""
    names = {side: _name(engine, kind, side) for side in sides}
    first = names.get(SPARSE) or names[DENSE]
    rates = {side: [step.prompt / s for s in timings.blocks[name]] for side, name in names.items()}
    values = [Reading("tokens_per_s", step.prompt / timings.median(first), "tokens/s", "higher", n=BLOCKS)]
    beside: list[dict[str, float]] = [{} for _ in range(BLOCKS)]
    notes: dict[str, Any] = {}
    if SPARSE in names and DENSE in names:
        ratio = timings.ratio(names[DENSE], names[SPARSE])
        values += [
            Reading("tokens_per_s_dense", step.prompt / timings.median(names[DENSE]), "tokens/s", ""),
            Reading("speedup", ratio.value, "1", "higher"),
        ]
        notes["interval"] = [ratio.low, ratio.high]
        beside = [
            {"tokens_per_s_dense": dense, "speedup": sparse / dense}
            for sparse, dense in zip(rates[SPARSE], rates[DENSE], strict=True)
        ]
    notes["noise"] = {side: timings.noise(name) for side, name in names.items()}
    notes["again"] = {side: [step.prompt / s for s in timings.blocks[n + REPEAT_SUFFIX]] for side, n in names.items()}
    notes |= {side: c.notes for side, c in sides.items() if c.notes}
    record.readings, record.notes = rows_of(Readings(tuple(values))), notes
    main = rates.get(SPARSE) or rates[DENSE]
    return tuple(Item(str(i), str(i), rate, 1.0, row) for i, (rate, row) in enumerate(zip(main, beside, strict=True)))
