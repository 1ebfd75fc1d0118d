"""Timings of whole models in several engines, as a record for each engine, kind of weight and
step."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.functional import cross_entropy

from bench.catalog.entries import CONTROL
from bench.execution.engines.contract import Contestant, Engine, Step
from bench.execution.engines.names import ENGINES
from bench.execution.measure import rows_of
from bench.execution.versions import DENSE, SPARSE, ModelVersions
from bench.inputs import loading, models
from bench.inputs.model_facts import ModelFacts
from bench.inputs.windows import load_windows
from bench.kernels.timing import Clock, CudaClock, WallClock
from bench.measures.contract import Readings
from bench.measures.speed.comparison import REPEAT_SUFFIX, Timings, interleave, to_readings
from bench.measures.speed.cpu import Cpu
from bench.measures.speed.roofline import ACTIVATION_BYTES, count_cached, sizes_of
from bench.results.identity import Identity
from bench.results.record import Item, Record
from bench.results.store import Store
from bench.system import digests, provenance
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
    engines = [ENGINES[name]() for name in request.engines]
    for engine in engines:
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
            (place := workdir / str(i)).mkdir()
            turn.models[name] = ModelVersions(other, place, sides=(DENSE,))
        steps = [Step(*s) for n in request.tokens for s in (("decode", 1, n), ("prefill", n, 0))]
        rows = [(name, e, kind) for name in turn.models for e in engines for kind in e.kinds]
        made = [
            (step, [turn.new_record(step, *row) for row in rows])
            for step in steps
            if step.name in request.steps
        ]
        known = {
            r.key: old for _, records in made for r in records if (old := store.finished(r.key))
        }
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


def _resolve(name: str, data_dir: Path | None) -> ModelFacts:
    model = models.resolve(name, data_dir)
    if model is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return model


_Key = tuple[str, str, str]
"""An engine, a kind of weight, and the name of a model; "" is the request's own."""
_Entered = dict[_Key, dict[str, Contestant]]


@dataclass(frozen=True)
class _Turn:
    """Engines and models, by name, that are timed in turn."""

    request: ModelTimingRequest
    engines: Sequence[Engine]
    models: dict[str, ModelVersions]

    def new_record(self, step: Step, name: str, engine: Engine, kind: str) -> Record:
        request, versions = self.request, self.models[name]
        is_sparse = engine.sparse and SPARSE in versions.sides
        identity = Identity(
            model=name or request.model,
            stages=(versions.method,) if is_sparse else (CONTROL,),
            pattern=SPARSE if is_sparse else DENSE,
            quantizer=engine.kinds[kind],
            measure="speed",
            protocol=step.protocol(engine.name),
            dtype=kind,
            device=request.device.split(":")[0],
        )
        source = digest_source(__name__, *(type(e).__module__ for e in self.engines))
        key_inputs = {
            "model": versions.model.digest, "measure": {"name": "speed", "source": source},
            "engine": {"name": engine.name} | engine.about(),
            "in_turn": {e.name: e.about() for e in self.engines}, "kind": kind,
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
        request, entered = self.request, _Entered()
        clock: Clock = CudaClock() if request.device.startswith("cuda") else WallClock()
        with warnings.catch_warnings():
            # Names of arguments that transformers will change.
            warnings.simplefilter("ignore", FutureWarning)
            for engine in self.engines:
                say(f"{step.name}: loading {engine.name}")
                for name, versions in self.models.items():
                    for contestant in engine.contestants(
                        versions, step, request.device, request.threads
                    ):
                        entered.setdefault((engine.name, contestant.kind, name), {})[
                            contestant.side
                        ] = contestant
            works = {
                _name(*key, side): c.work
                for key, sides in entered.items()
                for side, c in sides.items()
            }
            say(f"{step.name}: timing {len(works)} models in turn, {BLOCKS} blocks of each, twice")
            load, limits = psutil.getloadavg()[0], self._limits(step, entered)
            timings = interleave(
                works, clock, repeat=works, blocks=BLOCKS, block_s=BLOCK_S, after_round=after_round
            )
        for record in records:
            model = record.identity.model if record.identity.model in request.others else ""
            key = (record.identity.protocol.engine, record.identity.dtype, model)
            sides = entered[key]
            readings = _read(timings, {side: _name(*key, side) for side in sides}, step.prompt)
            record.provenance, record.readings = provenance.gather(), rows_of(readings)
            record.notes = {
                **readings.notes,
                **{side: c.notes for side, c in sides.items() if c.notes},
            }
            record.notes |= {
                "in_turn": list(works),
                "threads": request.threads,
                "kv_tokens": step.kv,
            }
            record.notes |= {
                "prompt_tokens": step.prompt,
                "engine": record.key_inputs["engine"],
                "load": load,
            }
            if request.sparse and SPARSE in sides:
                record.notes["sparse"] = Path(request.sparse).name
            if request.others:
                record.notes["beside"] = request.model
            record.notes |= limits.get(key, {})
            yield record, readings.items

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
        notes: dict[_Key, dict[str, Any]] = {}
        with contextlib.suppress(Skipped):  # no native kernel
            bandwidth = Cpu(self.request.threads).peaks().bandwidth
            perplexity = self._perplexities(entered)
            for key, sides in entered.items():
                _, kind, model = key
                cached = (
                    step.kv
                    * count_cached(self.models[model].source.config)
                    * ACTIVATION_BYTES
                    * (2 if kind == "fp32" else 1)
                )
                read = {side: c.nbytes + cached for side, c in sides.items() if c.nbytes and cached}
                quality = {
                    side: perplexity[key, side] for side in sides if (key, side) in perplexity
                }
                notes[key] = {"bytes_per_token": read} if read else {}
                if quality:
                    notes[key] |= {
                        "perplexity": quality,
                        "perplexity_of": f"{TEXT}, {WINDOWS} windows of {SEQLEN} tokens",
                    }
                notes[key]["bandwidth"] = bandwidth
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
        if not (own := files[""]):
            return {}
        same = {
            name for name, file in files.items() if file and file.read_bytes() == own.read_bytes()
        }
        windows, _ = load_windows(TEXT, loading.load_tokenizer(own.parent), SEQLEN, WINDOWS, None)
        out = {}
        for key, sides in entered.items():
            for side, contestant in sides.items():
                if contestant.logits and key[-1] in same:
                    losses = [
                        cross_entropy(contestant.logits(w)[:-1].float(), w[1:]).item()
                        for w in windows
                    ]
                    out[key, side] = math.exp(sum(losses) / len(losses))
        return out


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
    fast, slow = names.get(SPARSE) or names[DENSE], names.get(DENSE) if SPARSE in names else None
    ratio = timings.ratio(slow, fast) if slow else None
    notes: dict[str, Any] = {"interval": [ratio.low, ratio.high]} if ratio else {}
    notes["noise"] = {side: timings.noise(name) for side, name in names.items()}
    notes["again"] = {
        side: [tokens / s for s in timings.blocks[n + REPEAT_SUFFIX]] for side, n in names.items()
    }
    speedup = ratio.value if ratio else 0.0
    return to_readings(timings, "tokens_per_s", fast, slow, speedup, tokens=tokens, notes=notes)
