"""Timings of whole models in several engines, as a record for each engine, kind of weight and
step."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.catalog import registry
from bench.catalog.entries import CONTROL
from bench.execution.measure import rows_of
from bench.inputs import loading, models
from bench.inputs.kv_size import count_cached
from bench.inputs.model_facts import ModelFacts
from bench.inputs.windows import load_windows
from bench.measures.contract import Readings
from bench.parts.packed24.timing import Clock, CudaClock, WallClock, Work
from bench.parts.speed.comparison import REPEAT_SUFFIX, Timings, interleave, to_readings
from bench.parts.speed.cpu import Cpu
from bench.parts.speed.engines.contract import Contestant, Engine, Step
from bench.parts.speed.roofline import ACTIVATION_BYTES, BITS, sizes_of
from bench.parts.speed.versions import DENSE, SPARSE, ModelVersions
from bench.results.identity import Identity
from bench.results.record import Item, Record
from bench.results.store import Store
from bench.system import digests, nvidia_smi, provenance
from bench.system.cache import in_use, temporary_folder
from bench.system.devices import fingerprint, has_instructions_for, select_card
from bench.system.source_digest import digest_source
from methods.contract.errors import Skipped, UserError
from methods.model.safe_files import find_file

BLOCK_S = 0.2
"""Approximate length of a block in seconds."""
BLOCKS = 12
TEXT, WINDOWS, SEQLEN = "wiki-mini", 4, 256
"""Text of the perplexity beside each speed, and its windows."""
PEAK_SIZE, PEAK_REPEATS = 2048, 9
"""Size of the square product whose speed bounds a prompt on a CPU, and how often it is timed."""
CPU_TOKENS, CUDA_TOKENS = 128, 2048
"""Default number of tokens in the KV cache of a decoding step, and in a prompt."""


@dataclass(frozen=True)
class ModelTimingRequest:
    """A model, its 2:4 version, and the steps and engines to time.

    engines: names, in the order of the rows; tokens: in the KV cache of a decoding step, and in a
    prompt; sparse: a folder or name of the model's 2:4 version; steps: decode, prefill, or both;
    others: models that are timed dense in the same turn, for example with fewer blocks, by the name
    of their rows.
    """

    model: str
    device: str
    threads: int
    engines: tuple[str, ...]
    tokens: tuple[int, ...]
    data_dir: Path | None
    sparse: str | None = None
    steps: tuple[str, ...] = ("decode", "prefill")
    others: Mapping[str, str] = field(default_factory=dict)


def measure(
    request: ModelTimingRequest,
    results: Path,
    say: Callable[[str], None],
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[Record]:
    """Yield each record. The engines of a request are timed together, so all of a step's records
    are made, or none.

    advance: called with the number of rounds that are done, and of all rounds. An engine that
    cannot run is refused at once.
    """
    engines = {name: registry.build("engines", name, Engine) for name in request.engines}
    for name, engine in engines.items():
        with _guarded(name):
            engine.require(request.device)
    model = _resolve(request.model, request.data_dir)
    sparse = _resolve(request.sparse, request.data_dir) if request.sparse else None
    others = {name: _resolve(other, request.data_dir) for name, other in request.others.items()}
    store = Store(results)
    torch.set_num_threads(request.threads)
    select_card(request.device)
    with in_use(), temporary_folder("engines") as workdir:
        turn = _Turn(request, engines, {"": ModelVersions(model, workdir, sparse)})
        for i, (name, other) in enumerate(others.items()):
            place = workdir / str(i)
            place.mkdir()
            turn.models[name] = ModelVersions(other, place, sides=(DENSE,))
        made = [(step, turn.new_records(step)) for step in _steps(request)]
        known: dict[str, Record] = {}
        for record in itertools.chain.from_iterable(records for _, records in made):
            old = store.finished(record.key)
            if old:
                known[record.key] = old
        new = [step for step, records in made if not all(r.key in known for r in records)]
        done = itertools.count(1)
        for step, records in made:
            if step not in new:
                yield from (known[record.key] for record in records)
                continue
            for record, items in turn.time(
                step, records, say, lambda: advance(next(done), len(new) * BLOCKS)
            ):
                store.write(record, items)
                yield record


def _steps(request: ModelTimingRequest) -> list[Step]:
    """Return the steps of a request, in the order of its numbers of tokens."""
    steps = []
    for tokens in request.tokens:
        steps += [Step("decode", 1, tokens), Step("prefill", tokens, 0)]
    return [step for step in steps if step.name in request.steps]


def _guarded(engine: str) -> AbstractContextManager[None]:
    """Guard the code of an engine, if a plug-in provides it."""
    return registry.guarded(registry.lookup("engines", engine))


def _resolve(name: str, data_dir: Path | None) -> ModelFacts:
    model = models.resolve(name, data_dir)
    if model is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return model


_Key = tuple[str, str, str]
"""An engine, a kind of weight, and the name of a model; "" is the request's own."""
_Entered = dict[_Key, dict[str, Contestant]]
_Full = dict[tuple[str, str], str]
"""Words for the memory of a card in which an engine has no room for a model, by both."""


@dataclass(frozen=True)
class _Turn:
    """Engines and models, by name, that are timed in turn."""

    request: ModelTimingRequest
    engines: Mapping[str, Engine]
    models: dict[str, ModelVersions]

    @cached_property
    def about(self) -> dict[str, dict[str, Any]]:
        """Version and build of each engine."""
        found = {}
        for name, engine in self.engines.items():
            with _guarded(name):
                found[name] = engine.about()
        return found

    def new_records(self, step: Step) -> list[Record]:
        """Return a record for each model, engine and kind of weight, without readings."""
        records = []
        for model in self.models:
            for name, engine in self.engines.items():
                records += [self._new_record(step, model, name, kind) for kind in engine.kinds]
        return records

    def _new_record(self, step: Step, name: str, engine_name: str, kind: str) -> Record:
        request, versions, engine = self.request, self.models[name], self.engines[engine_name]
        is_sparse = engine.sparse and SPARSE in versions.sides
        identity = Identity(
            model=name or request.model,
            stages=(versions.method,) if is_sparse else (CONTROL,),
            pattern=SPARSE if is_sparse else DENSE,
            quantizer=engine.kinds[kind],
            measure="speed",
            protocol=step.protocol(engine_name),
            dtype=kind,
            device=request.device.split(":")[0],
        )
        source = digest_source(__name__, *(type(e).__module__ for e in self.engines.values()))
        key_inputs = {
            "model": versions.model.digest, "measure": {"name": "speed", "source": source},
            "engine": {"name": engine_name} | self.about[engine_name],
            "in_turn": self.about, "kind": kind,
            "step": step._asdict(), "threads": request.threads,
            "hardware": fingerprint(request.device),
        }  # fmt: skip
        if versions.sparse and engine.sparse:
            key_inputs["sparse"] = versions.sparse.digest
        if request.others:
            key_inputs["models"] = {n: v.model.digest for n, v in self.models.items()}
            key_inputs["row"] = name  # of two names for one folder each has a record
        return Record(
            key=digests.of(key_inputs), identity=identity, key_inputs=key_inputs, status="ok"
        )

    def time(
        self,
        step: Step,
        records: Iterable[Record],
        say: Callable[[str], None],
        after_round: Callable[[], object],
    ) -> Iterator[tuple[Record, tuple[Item, ...]]]:
        """Time a step of all models, and yield each record with its items: a block each, the same
        one in all records."""
        request = self.request
        clock: Clock = CudaClock() if request.device.startswith("cuda") else WallClock()
        with warnings.catch_warnings():
            # Names of arguments that transformers will change.
            warnings.simplefilter("ignore", FutureWarning)
            entered, full = self._enter(step, say)
            works: dict[str, Work] = {}
            for key, sides in entered.items():
                works |= {_name(*key, side): one.work for side, one in sides.items()}
            say(f"{step.name}: timing {len(works)} models in turn, {BLOCKS} blocks of each, twice")
            before = nvidia_smi.describe(request.device)
            load, limits = psutil.getloadavg()[0], self._limits(step, entered)
            timings = Timings({}, {})
            try:
                timings = interleave(
                    works,
                    clock,
                    repeat=works,
                    blocks=BLOCKS,
                    block_s=BLOCK_S,
                    after_round=after_round,
                )
            except torch.OutOfMemoryError:
                # Each fitted when it was loaded, and not all beside one another.
                entered, full = {}, dict.fromkeys(self._places, _card_memory(request.device))
            card = nvidia_smi.note(before, request.device)
        for record in records:
            model = record.identity.model if record.identity.model in request.others else ""
            key = (record.identity.protocol.engine, record.identity.dtype, model)
            sides = entered.get(key, {})
            if not sides:
                record.status, record.provenance = "skipped", provenance.gather()
                record.reason = self._describe_memory(step, key, full[key[0], model])
                yield record, ()
                continue
            readings = _read(timings, {side: _name(*key, side) for side in sides}, step.prompt)
            record.provenance, record.readings = provenance.gather(), rows_of(readings)
            own_notes = {side: one.notes for side, one in sides.items() if one.notes}
            record.notes = {
                **readings.notes,
                **own_notes,
                "in_turn": list(works),
                "threads": request.threads,
                "kv_tokens": step.kv,
                "prompt_tokens": step.prompt,
                "engine": record.key_inputs["engine"],
                "load": load,
            }
            if request.sparse and SPARSE in sides:
                record.notes["sparse"] = Path(request.sparse).name
            if request.others:
                record.notes["beside"] = request.model
            record.notes |= limits.get(key, {}) | card
            yield record, readings.items

    @property
    def _places(self) -> list[tuple[str, str]]:
        """Return each engine with each model that it runs."""
        return list(itertools.product(self.engines, self.models))

    def _enter(self, step: Step, say: Callable[[str], None]) -> tuple[_Entered, _Full]:
        """Load all models in all engines, and take a step of each. Leave out those that do not fit
        in a card's memory."""
        request, entered, full = self.request, _Entered(), _Full()
        for engine_name, name in self._places:
            say(f"{step.name}: loading {engine_name} {name}".rstrip())
            loaded: dict[str, dict[str, Contestant]] = {}
            is_full = False
            with _guarded(engine_name):
                try:
                    self._load(engine_name, name, step, loaded)
                except torch.OutOfMemoryError:
                    is_full = True
            engine, versions = self.engines[engine_name], self.models[name]
            count = len(versions.sides) if engine.sparse else 1
            for kind in [kind for kind, sides in loaded.items() if len(sides) < count]:
                del loaded[kind]
            entered |= {(engine_name, kind, name): sides for kind, sides in loaded.items()}
            if is_full:
                # Only now has the fault let go of what was loaded.
                full[engine_name, name] = _card_memory(request.device)
        return entered, full

    def _load(
        self, engine: str, model: str, step: Step, loaded: dict[str, dict[str, Contestant]]
    ) -> None:
        """Load a model in an engine, and take a step of each of its sides. Add them to `loaded` by
        kind and side."""
        device, threads = self.request.device, self.request.threads
        made = self.engines[engine].contestants(self.models[model], step, device, threads)
        for one in made:
            one.work()
            loaded.setdefault(one.kind, {})[one.side] = one

    def _describe_memory(self, step: Step, key: _Key, card: str) -> str:
        """Return the sizes of a model that does not fit in a card's memory."""
        _, kind, name = key
        facts = self.models[name].model
        itemsize = BITS.get(kind, BITS["float32"])[0] / 8
        weights = itemsize * sum(math.prod(shape) for shape in facts.shapes.values())
        cache = itemsize * (step.kv + step.prompt) * count_cached(facts.config)
        return (
            f"{weights / 1e9:.1f} GB of {kind} weights and {cache / 1e9:.1f} GB of keys and values "
            f"do not fit: {card}"
        )

    def _limits(self, step: Step, entered: _Entered) -> dict[_Key, dict[str, Any]]:
        """Measure what limits a step on a CPU. Return notes for each record.

        For decoding: bytes of weights, and of keys and values in 16 bits, that the step reads;
        perplexities; and the bandwidth of the threads in bytes per second. For a prompt: its
        operations in the dense linears, and those per second of a large product.
        """
        if self.request.device != "cpu":
            return {}
        if step.name == "prefill":
            peak = _measure_peak()
            per_token = {}
            for name, versions in self.models.items():
                sizes = sizes_of(versions.source.config, versions.source.shapes())
                per_token[name] = sizes.weights.per_token
            return {
                key: {"flops": 2.0 * step.prompt * per_token[key[-1]], "peak_flops": peak}
                for key in entered
            }
        try:
            bandwidth = Cpu(self.request.threads).peaks().bandwidth
        except Skipped:
            return {}
        notes: dict[_Key, dict[str, Any]] = {}
        perplexity = self._perplexities(entered)
        for key, sides in entered.items():
            _, kind, model = key
            value_bytes = 2 * ACTIVATION_BYTES if kind == "fp32" else ACTIVATION_BYTES
            cached = step.kv * count_cached(self.models[model].source.config) * value_bytes
            read = {side: one.nbytes + cached for side, one in sides.items() if one.nbytes}
            quality = {side: perplexity[key, side] for side in sides if (key, side) in perplexity}
            notes[key] = {"bandwidth": bandwidth}
            if read:
                notes[key]["bytes_per_token"] = read
            if quality:
                notes[key]["perplexity"] = quality
                notes[key]["perplexity_of"] = f"{TEXT}, {WINDOWS} windows of {SEQLEN} tokens"
        return notes

    def _perplexities(self, entered: _Entered) -> dict[tuple[_Key, str], float]:
        """Return the perplexity of each contestant that gives logits, on a short text.

        None for a folder without a tokenizer, or with another one than the request's own model: a
        token would be another text.
        """
        files = {
            name: find_file(versions.model.folder, "tokenizer.json")
            for name, versions in self.models.items()
        }
        own = files[""]
        if not own:
            return {}
        same = {
            name for name, file in files.items() if file and file.read_bytes() == own.read_bytes()
        }
        windows, _ = load_windows(TEXT, loading.load_tokenizer(own.parent), SEQLEN, WINDOWS, None)
        out = {}
        for key, sides in entered.items():
            for side, contestant in sides.items():
                if contestant.logits and key[-1] in same:
                    out[key, side] = _perplexity(contestant.logits, windows)
        return out


def _perplexity(logits: Callable[[Tensor], Tensor], windows: Iterable[Tensor]) -> float:
    """Return the perplexity of windows of token ids."""
    losses = [cross_entropy(logits(ids)[:-1].float(), ids[1:]).item() for ids in windows]
    return math.exp(sum(losses) / len(losses))


def _card_memory(device: str) -> str:
    """Return words for the free memory of a card."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB of {name} were free"


def _measure_peak() -> float:
    """Return operations per second of a large product, in bfloat16 or, on a CPU without
    instructions for it, in float32."""
    dtype = torch.bfloat16 if has_instructions_for("bfloat16") else torch.float32
    left, right = torch.ones(2, PEAK_SIZE, PEAK_SIZE, dtype=dtype)
    return 2.0 * PEAK_SIZE**3 / min(WallClock().measure(lambda: left @ right, PEAK_REPEATS))


def _name(engine: str, kind: str, model: str, side: str) -> str:
    return f"{engine} {kind} {model or side}"


def _read(timings: Timings, names: Mapping[str, str], tokens: int) -> Readings:
    """Return the readings of a record. names: of the timings, by side; tokens: of a step."""
    fast, slow = names.get(SPARSE), names.get(DENSE)
    if fast is None:
        fast, slow = names[DENSE], None
    ratio = timings.ratio(slow, fast) if slow else None
    notes: dict[str, Any] = {"interval": [ratio.low, ratio.high]} if ratio else {}
    notes["noise"] = {side: timings.noise(name) for side, name in names.items()}
    notes["again"] = {
        side: [tokens / s for s in timings.blocks[n + REPEAT_SUFFIX]] for side, n in names.items()
    }
    speedup = ratio.value if ratio else 0.0
    return to_readings(timings, "tokens_per_s", fast, slow, speedup, tokens=tokens, notes=notes)
