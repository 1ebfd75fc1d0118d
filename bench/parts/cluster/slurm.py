"""Script of a Slurm array with a task for each shard of a plan. The user submits it."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import jinja2

from bench.parts.cluster.shards import divide
from bench.parts.forecasts.cards import Cards
from bench.parts.forecasts.plan_costs import estimate_columns, fit_model
from bench.planning.artifact import Plan
from bench.system.files import write_file
from bench.system.grouping import flatten

MARGIN = 2.0
"""Factor on the estimated time. A task that runs out of time is requeued and resumes."""
MIN_MINUTES = 30
UNKNOWN_TIME = (
    "no time is known for some artifacts: set --time in the script, longer than the longest of "
    "them takes"
)
GRACE_S = 120
"""Seconds between Slurm's signal and its kill, in which a training saves its state."""
TEMPLATE = """\
#!/bin/bash
# {{ measurements }} measurements of {{ artifacts }} artifacts in {{ shards }} shards.
# Written by bench plan --slurm. Time and memory are estimates: check them, and add what your
# cluster asks for (partition, account).
{% if is_time_unknown %}# But {{ unknown_time }}.
{% endif %}#SBATCH --job-name=cast-bench
#SBATCH --array=1-{{ shards }}
{% if nodes > 1 %}#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
{% endif %}#SBATCH --time={{ time }}
#SBATCH --mem={{ memory }}G
#SBATCH --cpus-per-task={{ cores }}
{% if gpus %}#SBATCH --gres=gpu:{{ gpus }}
{% endif %}#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{{ grace }}

set -uo pipefail
cd {{ folder }} || exit 1
{% if nodes > 1 %}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
export MASTER_ADDR MASTER_PORT
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun does not take it from sbatch
{% endif %}
{{ command }} --shard "$SLURM_ARRAY_TASK_ID/{{ shards }}" &
child=$!
trap 'kill -TERM "$child"' TERM  # it saves the state of a training and exits with 143
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # a signal ended the wait, not the run
  wait "$child"
  code=$?
done
if [ "$code" -eq 143 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
"""


def write_job(plan: Plan, shards: int, cards: Any, file: Path) -> list[str]:
    """Write the script for `sbatch` to a file, and return sentences for the user.

    cards: from `bench.execution.forecast.Forecasts.split_cards`.
    """
    script = compose_script(plan, shards, cards)
    write_file(file, script)
    submit = f"check the time and memory in it, then: sbatch {shlex.quote(str(file))}"
    return [UNKNOWN_TIME, submit] if UNKNOWN_TIME in script else [submit]


def compose_script(plan: Plan, shards: int, cards: Cards | None = None) -> str:
    """Return the script for `sbatch`. Every task gets the time and memory of the largest shard.

    It runs in the current folder. All nodes must share it, the results folder and the cache. cards:
    cards that the user named.
    """
    spec, jobs = plan.spec, plan.jobs
    parts = [part for part in divide(plan, shards) if part.measurements]
    model = fit_model(plan)
    seconds, memory, is_time_unknown = 0.0, 0.0, False
    for part in parts:
        rows = estimate_columns(part, model, cards)
        times = [row["about_s"] or 0.0 for row in rows]
        # An artifact cannot be divided among jobs.
        seconds = max(seconds, max(times), sum(times) / jobs)
        memory = max(memory, *(row["about_GB"] for row in rows))
        is_time_unknown |= any(row["about_s"] is None for row in rows)
    minutes = max(MIN_MINUTES, math.ceil(MARGIN * seconds / 60))
    threads, gpus = 1, ""
    if plan.measurements:
        first = plan.measurements[0].artifact
        threads = first.threads
        if first.device != "cpu":
            ranks_per_node = max(m.artifact.ranks_per_node for m in plan.measurements)
            gpus = str(ranks_per_node * len(plan.devices))
    nodes = spec.training.nodes
    settings = flatten(spec.model_dump(mode="json", exclude_defaults=True, exclude={"shard"}))
    # TOML has no escapes of surrogate pairs.
    arguments = [
        f"--set={name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings
    ]
    start = ["srun"] if nodes > 1 else []
    template = jinja2.Template(
        TEMPLATE, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    script: str = template.render(
        measurements=len(plan.measurements),
        artifacts=len(plan.artifacts()),
        shards=max(1, len(parts)),
        is_time_unknown=is_time_unknown,
        unknown_time=UNKNOWN_TIME,
        time=f"{minutes // 60:02}:{minutes % 60:02}:00",
        memory=math.ceil(1.25 * (memory or 1.0) * jobs),
        # Processes of one artifact share its threads.
        cores=threads * jobs,
        gpus=gpus,
        grace=GRACE_S,
        folder=shlex.quote(str(Path.cwd())),
        nodes=nodes,
        command=shlex.join([*start, "bench", "run", *arguments]),
    )
    return script
