"""Pass a model to a script in another library's environment, and read the pruned model that it
writes.

Both sides exchange only safetensors and JSON files, so neither runs code of the other. They are in
one folder:

    job.json                 the job: pattern, targets, settings, and the names of the files below
    dense/                   the model before pruning: config.json and safetensors
    probe.safetensors        `tokens` int64 [1, n], and the parent's `logits` float32 [n,
    vocabulary] for them calibration.safetensors  `tokens` int64 [sequences, seqlen], for a method
    that uses calibration data

and, when the script is done,

    logits.safetensors       the script's `logits` of the dense model, written before pruning
    pruned/                  the pruned model, with the same tensor names
    report.json              `versions` of its packages, and the `recipe` that it applied

The script prints {"done": i, "total": n} to stdout, one line per step. All other output goes to its
log.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.contract.errors import Skipped
from methods.contract.method import Environment, Job, Outcome
from methods.model.folder import dtype_name, save, state

PROBE_TOKENS = 128
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest accepted RMS difference of the two logits, divided by the standard deviation of the
parent's."""
LOOK_S = 0.2
"""Seconds between two checks whether the script has ended while its output is still open."""
MAX_WARNINGS = 20
"""Largest number of lines of the log in the record."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


class ScriptFailed(Exception):
    """The script in the other environment failed, or its result is wrong."""


@dataclass(frozen=True)
class Script:
    """A script that reads a job file, with the config.json for its model and the settings of its
    library."""

    path: Path
    config: Mapping[str, Any]
    settings: Mapping[str, Any]


def prune(model: nn.Module, job: Job, script: Script) -> Outcome:
    """Run the script. Return the folder it wrote; the notes have its versions, recipe, log and the
    logits' difference.

    Raises:
        Skipped: the model is streamed; the script needs it in memory.
        ScriptFailed: the script failed, its dense model has other logits, or a file is missing.
    """
    if job.environment is None:
        raise RuntimeError("this job has no environment: the method's `needs` must name ISOLATED")
    if job.compute.stream:
        raise Skipped(
            f"{job.environment.name} needs the whole model in memory, and this one is streamed"
        )
    workdir = job.workdir / "exchange"
    workdir.mkdir(parents=True)
    logits = _write_inputs(model, job, script, workdir)
    _run(job, script.path, workdir)
    difference = logits_difference(_load(workdir / "logits.safetensors", job.environment), logits)
    if not difference <= TOLERANCE[job.compute.dtype]:  # NaN too
        raise ScriptFailed(
            f"{job.environment.name} reads the dense model differently: its logits differ by "
            f"{difference:.2g}"
        )
    try:
        report = json.loads((workdir / "report.json").read_text())
        notes = {key: report[key] for key in ("versions", "recipe")}
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise ScriptFailed(
            f"{job.environment.name} wrote no report ({fault}): see its log {job.environment.log}"
        ) from None
    comparison = {
        "tokens": logits.shape[0],
        "difference": float(f"{difference:.3g}"),
        "tolerance": TOLERANCE[job.compute.dtype],
    }
    return Outcome(
        workdir / "pruned",
        notes=notes | {"dense_logits": comparison, "log": _summarize_log(job.environment.log)},
    )


def logits_difference(logits: Tensor, reference: Tensor) -> float:
    """Return the RMS difference of two logits over the standard deviation of the reference. NaN if
    shapes differ."""
    if logits.shape != reference.shape:
        return float("nan")
    return float(
        (logits - reference).square().mean().sqrt()
        / (reference - reference.mean()).square().mean().sqrt()
    )


@torch.no_grad()
def _write_inputs(model: nn.Module, job: Job, script: Script, workdir: Path) -> Tensor:
    """Write the files that the script reads. Return the parent's logits on the probe, [n,
    vocabulary]."""
    save(model, workdir / "dense")
    (workdir / "dense" / "config.json").write_text(json.dumps(dict(script.config), indent=1))
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokens = torch.randint(
        vocabulary, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    if job.calibration is not None:
        tokens = job.calibration[:1, :PROBE_TOKENS]
        save_file({"tokens": job.calibration.contiguous()}, workdir / "calibration.safetensors")
    logits: Tensor = (
        model(input_ids=tokens.to(job.compute.device), use_cache=False).logits[0].float().cpu()
    )
    save_file(
        {"tokens": tokens.contiguous(), "logits": logits.contiguous()},
        workdir / "probe.safetensors",
    )
    request = {
        "model": "dense",
        "probe": "probe.safetensors",
        "tolerance": TOLERANCE[job.compute.dtype],
        "calibration": "calibration.safetensors" if job.calibration is not None else None,
        "logits": "logits.safetensors",
        "pruned": "pruned",
        "report": "report.json",
        "pattern": {"n": job.pattern.n, "m": job.pattern.m, "sparsity": job.pattern.share},
        "targets": job.targets,
        "tensors": list(state(model)),
        "dtype": dtype_name(job.compute.dtype),
        "device": str(job.compute.device),
        "threads": job.compute.threads,
        "seed": job.seed,
        "settings": dict(script.settings),
    }
    (workdir / "job.json").write_text(json.dumps(request, indent=1))
    return logits


def _run(job: Job, path: Path, workdir: Path) -> None:
    """Run a script. Raise ScriptFailed, with the last line of the log, if it fails."""
    environment = job.environment
    assert environment
    environment.log.parent.mkdir(parents=True, exist_ok=True)
    # -I: nothing of this project is on its path
    command = [
        str(environment.python),
        "-I",
        str(path),
        "job.json",
    ]
    variables = os.environ | OFFLINE | {"OMP_NUM_THREADS": str(job.compute.threads)}
    with (
        environment.log.open("wb") as log,
        subprocess.Popen(
            command,
            cwd=workdir,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        try:
            for line in _lines(process):
                step = json.loads(line)
                job.progress.advance(step["done"], step["total"])
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        how = f"signal {-code} after " if code < 0 else ""
        raise ScriptFailed(
            f"{environment.name}: {how}{_last_line(environment.log)}; see its log {environment.log}"
        )


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield the lines that a process prints until it ends. A child of it may keep its output
    open."""
    assert process.stdout
    handle, rest, has_ended = process.stdout.fileno(), b"", False
    while True:
        if select.select([handle], [], [], 0 if has_ended else LOOK_S)[0]:
            part = os.read(handle, 65536)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            yield from lines
        elif has_ended:
            return
        else:
            has_ended = process.poll() is not None


def _load(file: Path, environment: Environment) -> Tensor:
    try:
        return load_file(file)["logits"].float()
    except (OSError, KeyError, SafetensorError) as fault:
        raise ScriptFailed(
            f"{environment.name} wrote no logits ({fault}): see its log {environment.log}"
        ) from None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _summarize_log(log: Path) -> dict[str, Any]:
    """Return the part of the log for the record. The cache keeps the whole file beside the
    artifact."""
    lines = dict.fromkeys(line.strip() for line in log.read_text(errors="replace").splitlines())
    warnings = [line for line in lines if re.search(r"WARNING|ERROR|Warning:|Error:", line)]
    return {"file": f"{log.parent.name}/{log.name}", "warnings": warnings[:MAX_WARNINGS]}
