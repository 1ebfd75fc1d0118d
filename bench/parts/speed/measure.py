"""Speed of an artifact on its weights: decoding, prompts, and its linears one by one, 2:4 and dense
interleaved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from bench.measures.contract import (
    MeasureContext,
    MeasureSettings,
    PlanContext,
    Planned,
    Readings,
    RunSettings,
)
from bench.parts.packed24 import native
from bench.results.identity import Protocol
from bench.system import nvidia_smi
from bench.system.devices import fingerprint, resolve_devices
from bench.system.values import split_commas
from methods.contract.errors import Skipped, UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn

PROMPT_TOKENS = (512, 2048, 8192)
BATCH_SIZES = (1, 16, 64)
KV_TOKENS = 2048
"""Tokens in each sequence's KV cache while a CUDA device decodes."""
CPU_KV_TOKENS = 128
LINEAR_TOKENS = (1, 16, 64, 512, 2048, 8192)


class SpeedSettings(MeasureSettings):
    """Choice of what is timed."""

    table: ClassVar[str] = "speed"
    workloads: tuple[Literal["decode", "prefill", "linears"], ...] = Field(
        default=("decode", "prefill", "linears"), min_length=1
    )
    """Workloads to time: decoding, prompts, and linear layers one by one. A CPU times only
    decoding."""

    @field_validator("workloads", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in split_commas(value)] if isinstance(value, str) else value


@dataclass(frozen=True)
class Speed:
    """Tokens per second of decoding; on a CUDA device also prompts, and linears one by one.

    tokens: number in the KV cache for decode, in the prompt for prefill, in the input for linears.
    hardware and kernel, the digest of the CPU kernel's source, are parts of the key.
    """

    name: ClassVar[str] = "speed"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "speedup",
                "1",
                "higher",
                aggregation="mean of speedups",
                on_board=True,
                one_column=True,
            ),
            Metric("tokens_per_s", "tokens/s", "higher", aggregation="median of timings"),
            Metric("tokens_per_s_dense", "tokens/s", aggregation="median of timings"),
            Metric("latency", "s", "lower", aggregation="median of timings"),
            Metric("latency_dense", "s", aggregation="median of timings"),
            Metric("linears", "s", "lower", aggregation="median of timings"),
            Metric("linears_dense", "s", aggregation="median of timings"),
        ),
        other_metrics=True,
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[SpeedSettings]] = SpeedSettings
    workload: Literal["decode", "prefill", "linears", "cuda"] = "decode"
    tokens: int = 0
    batch: int = 1
    hardware: str = ""
    kernel: str = ""

    @classmethod
    def check(cls, run: RunSettings, *, fetch: bool) -> None:
        """Raise UserError if another machine takes the times, if this one lacks the device, or if
        it also computes others."""
        if run.executor == "ray":
            raise UserError("speed is a time of one machine: measure it with --executor local")
        devices = resolve_devices(run.device, elsewhere=not fetch)
        jobs = len(devices) if run.jobs is None else run.jobs
        if jobs == "auto" or int(jobs) > len(devices):
            raise UserError(
                f"--jobs {jobs} would time an artifact while others compute on its device: "
                "measure speed in another run, without --jobs"
            )

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan a measurement for each workload and size. Without CUDA: decoding, and one that says
        what is missing."""
        hardware, *others = dict.fromkeys(map(fingerprint, context.devices))
        if others:
            raise UserError(
                f"speed cannot be measured on different GPUs in one run ({hardware} and "
                f"{others[0]}): run once for each with --device"
            )
        has_cuda = context.devices[0].startswith("cuda")
        kernel = {} if has_cuda else {"kernel": native.source_digest()}
        sizes = [("decode", CPU_KV_TOKENS, 1)]
        if has_cuda:
            sizes = [("decode", KV_TOKENS, b) for b in BATCH_SIZES] + [
                ("prefill", p, 1) for p in PROMPT_TOKENS
            ]
            sizes += [("linears", t, 1) for t in LINEAR_TOKENS]
        else:
            yield Planned({"workload": "cuda"})
        wanted = context.run.settings_of(SpeedSettings).workloads
        for workload, tokens, batch in sizes:
            if workload in wanted:
                yield Planned(
                    {"workload": workload, "tokens": tokens, "batch": batch, "hardware": hardware}
                    | kernel
                )

    @property
    def protocol(self) -> Protocol:
        if self.workload == "cuda":
            return Protocol(name="cuda")
        if self.workload == "decode":
            return Protocol(name="decode", version=f"b{self.batch},kv{self.tokens}")
        return Protocol(name=self.workload, seqlen=self.tokens)

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Time the 2:4 or smaller model and the fastest dense one, interleaved, or raise Skipped.
        The items are the blocks."""
        if self.workload == "cuda":
            raise Skipped("no CUDA device")
        if context.counts.term_parameters:
            raise Skipped("no kernel here multiplies by sparse weights and a low-rank term")
        # Here, because they import torch.
        from bench.parts.speed import linears
        from bench.parts.speed.comparison import summarize, to_readings
        from bench.parts.speed.decoding import compare_models, step_memory, within_memory
        from bench.system.products import use_float32

        use_float32(wanted=False)  # others have torch's own products
        device = linears.select_device(context.compute)
        if self.workload == "linears":
            return linears.read_linears(device, model, context, self.tokens)
        place = str(context.compute.device)
        before = nvidia_smi.describe(place)
        decodes = self.workload == "decode"
        prompt, kv = (1, self.tokens) if decodes else (self.tokens, 0)
        memory = step_memory(context, self.batch, prompt, kv)
        with within_memory(device, memory):
            comparison = compare_models(
                device, model, context, batch=self.batch, prompt=prompt, kv=kv
            )
            timings = comparison.run(device.clock)
            peaks = device.peaks()
        card = nvidia_smi.note(before, place)
        metric, tokens = "tokens_per_s" if decodes else "latency", self.batch if decodes else None
        if not comparison.sparse:
            return to_readings(
                timings, metric, timings.fastest(comparison.dense), tokens=tokens, notes=card
            )
        row = summarize(comparison, timings, peaks)
        row |= card | {"peak_bandwidth": peaks.bandwidth, "peak_flops": dict(peaks.flops)}
        return to_readings(
            timings, metric, row["sparse"], row["dense"], row["speedup"], tokens=tokens, notes=row
        )
