"""Hand a model to a script in another library's environment, and take back what it made of it.

What crosses is safetensors and JSON, so neither side runs what the other wrote. The folder that the two share holds

    job.json                 all that the script is told, the names of the files below among it
    dense/                   the model as it is: config.json and safetensors
    probe.safetensors        `tokens` int64 [1, n] and the parent's `logits` float32 [n, vocabulary] on them
    calibration.safetensors  `tokens` int64 [sequences, seqlen], for a method that has some

and, once the script has run,

    logits.safetensors       its own `logits` of the dense model, written before it pruned anything
    pruned/                  the model as it has become, the same tensors by the same names
    report.json              `versions` of its packages, and the `recipe` it applied

The script says {"done": i, "total": n} on stdout, a line a step; the rest of what it says goes into its log.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.contract import Environment, Job, Outcome
from methods.errors import Skipped
from methods.folder import save, state

PROBE_TOKENS = 128
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest RMS of the two logits' difference, over the RMS of the parent's about their mean."""
WARNINGS = 20
"""Of the log, at most so many go into the record."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}


class Crashed(Exception):
    """The process in the other environment failed, or made what it should not have."""


@dataclass(frozen=True)
class Child:
    """What to run: a script that reads a job file, the config it is to read, and the library's own settings."""

    script: Path
    config: Mapping[str, Any]
    settings: Mapping[str, Any]


def prune(model: nn.Module, job: Job, child: Child) -> Outcome:
    """The folder the script wrote, with its versions, recipe, log and agreement in the notes.

    Raises:
        Skipped: the model is streamed: the script wants it whole.
        Crashed: the script failed, or its dense model is not ours, or it left no report.
    """
    if job.environment is None:
        raise RuntimeError("this job has no environment: the method's `needs` must name ISOLATED")
    if job.compute.stream:
        raise Skipped(f"{job.environment.name} here wants the whole model in memory")
    room = job.workdir / "exchange"
    room.mkdir(parents=True)
    logits = _hand_over(model, job, child, room)
    _run(job, child.script, room)
    agreement = disagreement(_load(room / "logits.safetensors", job.environment), logits)
    if not agreement <= TOLERANCE[job.compute.dtype]:  # NaN, too
        raise Crashed(
            f"{job.environment.name} reads another dense model than ours: its logits differ by {agreement:.2g}"
        )
    try:
        report = json.loads((room / "report.json").read_text())
        notes = {key: report[key] for key in ("versions", "recipe")}
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise Crashed(f"{job.environment.name} left no report ({fault}); its log is {job.environment.log}") from None
    told = {
        "tokens": logits.shape[0],
        "difference": float(f"{agreement:.3g}"),
        "tolerance": TOLERANCE[job.compute.dtype],
    }
    return Outcome(room / "pruned", notes=notes | {"dense_logits": told, "log": _of_log(job.environment.log)})


def disagreement(theirs: Tensor, ours: Tensor) -> float:
    """RMS of the difference of two models' logits, over that of ours about their mean. NaN where shapes differ."""
    if theirs.shape != ours.shape:
        return float("nan")
    return float((theirs - ours).square().mean().sqrt() / (ours - ours.mean()).square().mean().sqrt())


@torch.no_grad()
def _hand_over(model: nn.Module, job: Job, child: Child, room: Path) -> Tensor:
    """Write all that the script reads. Returns the parent's logits on the probe, [n, vocabulary]."""
    save(model, room / "dense")
    (room / "dense" / "config.json").write_text(json.dumps(dict(child.config), indent=1))
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokens = torch.randint(vocabulary, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    if job.calibration is not None:
        tokens = job.calibration[:1, :PROBE_TOKENS]
        save_file({"tokens": job.calibration.contiguous()}, room / "calibration.safetensors")
    logits: Tensor = model(input_ids=tokens.to(job.compute.device), use_cache=False).logits[0].float().cpu()
    save_file({"tokens": tokens.contiguous(), "logits": logits.contiguous()}, room / "probe.safetensors")
    told = {
        "model": "dense",
        "probe": "probe.safetensors",
        "tolerance": TOLERANCE[job.compute.dtype],
        "calibration": "calibration.safetensors" if job.calibration is not None else None,
        "logits": "logits.safetensors",
        "pruned": "pruned",
        "report": "report.json",
        "pattern": {"n": job.pattern.n, "m": job.pattern.m, "sparsity": _sparsity(job)},
        "targets": job.targets,
        "tensors": list(state(model)),
        "dtype": str(job.compute.dtype)[6:],
        "device": str(job.compute.device),
        "threads": job.compute.threads,
        "seed": job.seed,
        "settings": dict(child.settings),
    }
    (room / "job.json").write_text(json.dumps(told, indent=1))
    return logits


def _sparsity(job: Job) -> float:
    return 1 - job.pattern.n / job.pattern.m if job.pattern.m else job.pattern.sparsity


def _run(job: Job, script: Path, room: Path) -> None:
    """
    Raises:
        Crashed: with the log's last line.
    """
    environment = job.environment
    assert environment
    environment.log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(environment.python), "-I", str(script), "job.json"]  # -I: nothing of ours is on its path
    variables = os.environ | OFFLINE | {"OMP_NUM_THREADS": str(job.compute.threads)}
    with (
        environment.log.open("wb") as log,
        subprocess.Popen(
            command, cwd=room, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            for line in process.stdout:
                told = json.loads(line)
                job.progress.advance(told["done"], told["total"])
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        how = f"signal {-code} after " if code < 0 else ""
        raise Crashed(f"{environment.name}: {how}{_last_line(environment.log)}; its log is {environment.log}")


def _load(file: Path, environment: Environment) -> Tensor:
    try:
        return load_file(file)["logits"].float()
    except (OSError, KeyError, SafetensorError) as fault:
        raise Crashed(f"{environment.name} left no logits ({fault}); its log is {environment.log}") from None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing said")


def _of_log(log: Path) -> dict[str, Any]:
    """What the record keeps of it. The file itself lies beside the artifact, in the cache."""
    lines = dict.fromkeys(line.strip() for line in log.read_text(errors="replace").splitlines())
    warnings = [line for line in lines if re.search(r"WARNING|ERROR|Warning:|Error:", line)]
    return {"file": f"{log.parent.name}/{log.name}", "warnings": warnings[:WARNINGS]}
