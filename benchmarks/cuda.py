"""The first half hour on a CUDA card: stages, the most valuable first, each with its records.

python benchmarks/cuda.py --needs                  what this machine lacks; exit code 1 if it is
anything python benchmarks/cuda.py --pack DIR               what it may lack there, in parts of at
most 45 MB, to be carried along python benchmarks/cuda.py --from DIR [--stage S]   unpack such parts
and use them; needs no network python benchmarks/cuda.py [--stage check,shapes]   run stages; all of
them by default

Recorded numbers are not measured again, so a stopped stage continues: --limit SECONDS stops one in
time, a training after a checkpoint, with exit code 75, and --archive FILE holds the records after
each command. The script starts without any package. torch is not
packed: a machine with a card has the torch for its driver. Without a card each stage is planned and
not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import parts

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct-q4"
SHAPES = ("llama2-7b", MODEL)
KINDS = ("--kinds", "bf16,fp8", "--tokens", "1,16,512,8192")
TRAINED = "cast,retrain,dense-ft"
RECIPE, STEPS_TOKENS = "small-gpu", 80 * 128 * 1024
"""Recipe of the trainings that are timed, and the tokens of as many of its steps as show their
speed."""
COMPARED = "short-cpu"
"""Recipe of the trainings whose quality is measured: that of results/smollm2-135m-recon, which were
trained on a CPU."""
NOT_PACKED = "install the one for this machine's CUDA driver; --pack leaves it out"
GRACE_S = 40.0
"""Seconds that a stopped command has to save what it has."""
CHECKPOINT_S = 90
"""Seconds between two checkpoints: a stop within a call of ten minutes costs no more."""
STOPPED = 75
"""Exit code of a run that the limit ended."""
EXTRA = "test"
"""Extras of pyproject.toml that the stages need."""


class CardStage(NamedTuple):
    """minutes: on an H100, a guess until it has run on one."""

    minutes: float
    about: str


STAGES = {
    "check": CardStage(3, "the tests that need a card"),
    "shapes": CardStage(10, "linears of LLaMA2-7B and SmolLM2, 2:4 against dense, in bf16 and fp8"),
    "decode": CardStage(8, "tokens per second of SmolLM2 with CUDA graphs"),
    "prefill": CardStage(10, "prompts, and linears on the model's own weights"),
    "train": CardStage(
        6,
        f"{TRAINED} on SmolLM2 by the recipe {RECIPE}: tokens per second, share of the card's peak",
    ),
    "quality": CardStage(
        8,
        f"{TRAINED} by the recipe {COMPARED}: perplexity and KL, beside those of a training on a "
        "CPU",
    ),
}


def commands(stage: str, results: Path) -> list[list[str]]:
    """Return the commands of a stage."""
    place = ["--device", "cuda", "--results", str(results)]
    timed = [
        "run",
        "--model",
        MODEL,
        "--methods",
        "magnitude",
        "--quant",
        "none",
        "--measures",
        "speed",
    ]
    timed += ["--dtype", "bfloat16", *place]
    trained = ["run", "--model", MODEL, "--quant", "none", "--dtype", "bfloat16", *place]
    trained += [f"--set=training.checkpoint_s={CHECKPOINT_S}", "--set=perplexity.seqlen=512"]
    timed_steps = [
        f"--set=training.recipe={RECIPE}",
        f"--set=training.tokens={STEPS_TOKENS}",
        "--measures",
        "size",
    ]
    measured = [
        f"--set=training.recipe={COMPARED}",
        "--measures",
        "perplexity,agreement",
        "--set=perplexity.windows=120",
    ]
    methods = TRAINED.split(",")
    return {
        "check": [
            [
                sys.executable,
                "-m",
                "pytest",
                "-n",
                "0",
                "-m",
                "cuda",
                "tests/parts/speed/test_cuda.py",
            ]
        ],
        "shapes": [
            _bench("speed", "--model", m, *place, *KINDS, "--figure", str(results / f"{m}.svg"))
            for m in SHAPES
        ],
        "decode": [_bench(*timed, '--set=speed.workloads=["decode"]')],
        "prefill": [_bench(*timed, '--set=speed.workloads=["prefill", "linears"]')],
        "train": [_bench(*trained, *timed_steps, "--methods", method) for method in methods],
        "quality": [_bench(*trained, *measured, "--methods", method) for method in methods],
    }[stage]


def _bench(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def plan_of(command: list[str]) -> list[str]:
    """Return a form of a stage's command for a machine without a card: it collects, computes limits
    or plans."""
    if "pytest" in command:
        return [*command, "--collect-only"]
    words = ["cpu" if word == "cuda" else word for word in command]
    if words[3] == "speed":
        return [*words[: words.index("--device")], "--device-spec", "h100"]
    return [*words[:3], "plan", *words[4:]]


def needs() -> Iterator[tuple[str, str]]:
    """List what this machine lacks, and how to get it."""
    for requirement in _requirements():
        name = re.split(r"[ <>=!~;\[]", requirement)[0]
        if not any(metadata.distributions(name=name)):
            ways = "pip install -e '.[test]', or --from DIR with what --pack wrote elsewhere"
            yield f"package {requirement}", NOT_PACKED if parts.THERE.match(name) else ways
    if importlib.util.find_spec("torch"):
        import torch

        if not torch.cuda.is_available():
            yield "CUDA device", f"torch {torch.__version__} sees none"
    if any(importlib.util.find_spec(name) is None for name in ("pydantic", "bench")):
        return
    from bench.inputs import corpora, models

    if models.resolve(MODEL, None) is None:
        yield f"model {MODEL}", f"bench pull {MODEL}, or --from DIR"
    for corpus in ("wiki-mini", "wikitext2"):
        if corpora.lookup(corpus).hub and not corpora.files(corpus, "evaluation", None):
            yield (
                f"text {corpus}",
                f"bench pull {corpus}; quality is measured on wiki-mini without it",
            )


def _requirements() -> list[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][EXTRA]]


def show_use(results: Path) -> None:
    """Tokens per second of each training, and the share of the card's peak that its products
    took."""
    import torch

    from bench.inputs.datasheets import device_specs
    from bench.parts.speed import roofline
    from bench.results.store import ReadOnlyStore

    sizes = roofline.model_sizes(MODEL, None)
    weights = sizes.head + sum(out * width * count for (out, width), count in sizes.linears.items())
    name = torch.cuda.get_device_name().lower()
    specs = device_specs()
    key = next(
        (key for key in sorted(specs, key=len, reverse=True) if key in name.replace(" ", "")), None
    )
    peak = specs[key].peak("bf16") if key else None
    for record in ReadOnlyStore(results):
        rate = record.cost.get("training_tokens_per_s")
        if (
            rate is None
            or record.identity.measure != "pattern"
            or record.identity.training.recipe != RECIPE
        ):
            continue
        # And a forward pass of the teacher.
        passes = 6 if record.identity.method.startswith("dense-ft") else 8
        flops = passes * weights * rate
        share = f", {flops / peak / 1e12:.0%} of the peak" if peak else ""
        print(f"{record.identity.method}: {rate:,.0f} tokens/s{share}")


def use_parts(folder: Path) -> dict[str, str]:
    """Unpack parts beside them, install the packages from there, and return an environment that has
    them."""
    place = folder / "unpacked"
    if not (place / "site").is_dir():
        parts.unpack(folder, place)
        wheels = sorted(map(str, (place / "wheels").glob("*.whl")))
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--target",
            str(place / "site"),
        ]
        subprocess.run([*pip, *wheels], check=True)
    path = os.pathsep.join([str(ROOT), str(place / "site")])
    return os.environ | {
        "PYTHONPATH": path,
        "CAST_BENCH_CACHE": str(place / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


def main() -> int:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--results", type=Path, default=Path("results/local/speed-cuda"))
    asked.add_argument("--stage", default=",".join(STAGES), help="by commas")
    asked.add_argument(
        "--limit", type=float, default=math.inf, metavar="SECONDS", help="stop after this time"
    )
    asked.add_argument(
        "--archive", type=Path, metavar="FILE", help="also write the records to this .tar.gz"
    )
    asked.add_argument("--needs", action="store_true")
    asked.add_argument("--pack", type=Path, metavar="DIR")
    asked.add_argument("--from", type=Path, metavar="DIR", dest="source")
    asked.add_argument(
        "--python",
        default=f"{sys.version_info.major}.{sys.version_info.minor}",
        help="of that machine",
    )
    given = asked.parse_args()
    chosen = given.stage.split(",")
    if unknown := [name for name in chosen if name not in STAGES]:
        asked.error(f"unknown stage {unknown[0]!r}: use some of {', '.join(STAGES)}")
    if given.pack:
        parts.pack(given.pack, MODEL, _requirements(), given.python)
        return 0
    if given.source:
        words = [
            "--stage",
            given.stage,
            "--results",
            str(given.results),
            *(["--needs"] if given.needs else []),
        ]
        words += ["--limit", str(given.limit)] if given.limit < math.inf else []
        words += ["--archive", str(given.archive)] if given.archive else []
        try:
            environment = use_parts(given.source)
        except parts.Damaged as fault:
            asked.error(str(fault))
        return subprocess.run(
            [sys.executable, __file__, *words], env=environment, check=False
        ).returncode
    if given.needs:
        lacking = list(needs())
        for thing, way in lacking:
            print(f"{thing}: {way}")
        return 1 if lacking else 0
    return run(chosen, given.results, time.monotonic() + given.limit, given.archive)


def call(command: list[str], end: float) -> int:
    """Run a command until a time of `time.monotonic`. Then it is asked to end, and killed if it
    does not."""
    process = subprocess.Popen(command)
    try:
        return process.wait(None if end == math.inf else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return STOPPED


def keep(results: Path, archive: Path | None) -> None:
    """Write the records to an archive."""
    if archive and results.is_dir():
        with tarfile.open(archive, "w:gz") as out:
            out.add(results, results.name)


def run(
    chosen: list[str], results: Path, end: float = math.inf, archive: Path | None = None
) -> int:
    """Run stages in their order, or plan them where there is no card. Returns the largest exit
    code.

    A command that fails does not end the run.
    """
    total = sum(STAGES[name].minutes for name in chosen)
    print(f"{len(chosen)} stages, about {total:g} minutes on an H100", flush=True)
    if importlib.util.find_spec("torch") is None:
        print(f"package torch is missing: {NOT_PACKED}", file=sys.stderr)
        return 2
    import torch

    has_card = torch.cuda.is_available()
    worst = 0
    for name in STAGES:
        if name not in chosen:
            continue
        print(f"{name}: about {STAGES[name].minutes:g} minutes: {STAGES[name].about}", flush=True)
        for command in commands(name, results):
            if not has_card:
                print("  skipped: no CUDA device:", *command, flush=True)
                command = plan_of(command)
            print(">", *command, flush=True)
            code = call(command, end)
            worst = max(worst, code)
            keep(results, archive)
            if code == STOPPED:
                print("stopped: the same command goes on", flush=True)
                return code
        if name == "train" and has_card:
            show_use(results)
    return worst


if __name__ == "__main__":
    sys.exit(main())
