"""Zero-shot on tiny: `bench run` against the lm-eval command line, whole commands, on the same tasks and batch size.

Both must answer every question alike. lm-eval's command against itself is the noise.

python benchmarks/zeroshot.py [rounds]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from harness import finish, in_turn, ratio

from bench.inputs import download, tasks, wikitasks
from bench.results.store import Store
from bench.system.devices import cores

BATCH = 16


def ours(room: Path) -> dict[str, float]:
    flags = [
        "--methods",
        "dense",
        "--quant",
        "none",
        "--measures",
        "zeroshot",
        "--device",
        "cpu",
        "--results",
        str(room / "r"),
    ]
    settings = ["--set", f"zeroshot.batch={BATCH}", "--set", f"threads={cores()}"]
    subprocess.run([sys.executable, "-m", "bench", "run", *flags, *settings], capture_output=True, check=True)
    found = [r for r in Store(room / "r", write=False) if r.identity.measure == "zeroshot"]
    return {r.identity.protocol.label.split("@")[0]: r.readings[0].value or 0.0 for r in found}


def theirs(room: Path) -> dict[str, float]:
    folder = download.pull("tiny").folder
    flags = ["--model", "hf", "--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu"]
    flags += [
        "--tasks",
        ",".join(tasks.BUILTIN_TASKS),
        "--include_path",
        str(wikitasks.folder()),
        "--batch_size",
        str(BATCH),
    ]
    command = [sys.executable, "-m", "lm_eval", "run", *flags, "--output_path", str(room / "lm-eval.json")]
    threads = {"OMP_NUM_THREADS": str(cores())}
    subprocess.run(command, capture_output=True, check=True, env=os.environ | threads)
    (file,) = room.glob("**/lm-eval*.json")
    return {name: result["acc,none"] for name, result in json.loads(file.read_text())["results"].items()}


def main(rounds: int) -> None:
    seen: dict[str, dict[str, float]] = {}

    def go(name: str) -> None:
        with tempfile.TemporaryDirectory() as room:
            seen[name] = (ours if name == "ours" else theirs)(Path(room))

    wikitasks.folder()
    times = in_turn({name: lambda n=name: go(n) for name in ("ours", "lm-eval", "lm-eval again")}, rounds)
    assert seen["ours"] == seen["lm-eval"], seen
    finish(
        "zeroshot",
        {
            "model": "tiny",
            "tasks": ", ".join(f"{t}: acc {seen['ours'][t]:.4g}" for t in tasks.BUILTIN_TASKS),
            "threads": cores(),
            "lm-eval / ours, whole commands": ratio(times, "lm-eval", "ours"),
            "lm-eval / lm-eval again, the noise": ratio(times, "lm-eval", "lm-eval again"),
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
