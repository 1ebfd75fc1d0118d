"""The first half hour on a CUDA card: stages, the most valuable first, each with its records.

python benchmarks/cuda.py --needs                what this machine lacks; exit code 1 if anything
python benchmarks/cuda.py --pack DIR             what it may lack, for a machine without a network
python benchmarks/cuda.py --from DIR [...]       unpack and use them
python benchmarks/cuda.py [--stage check,shapes] run stages; all of them by default

Recorded numbers are not measured again, so a stopped stage continues. --limit SECONDS stops one in
time, a training after a checkpoint, with exit code 75. --archive FILE holds the records after each
command. The script starts without any package. torch is not packed: a machine with a card has the
one for its driver. Without a card each stage is planned and not run.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct-q4"
SHAPES = ("llama2-7b", MODEL)
TRAINED = "cast,retrain,dense-ft"
RECIPE, STEPS_TOKENS = "small-gpu", 80 * 128 * 1024
"""Recipe of the timed trainings, and tokens of enough steps to show their speed."""
COMPARED = "short-cpu"
"""Recipe of the trainings whose quality is measured, as in results/smollm2-135m-recon."""
NOT_PACKED = "install the one for this machine's CUDA driver; --pack leaves it out"
THERE = re.compile(r"(torch|triton|nvidia|cuda)([-_.].*)?$")
"""Packages that a machine with a card has: they are large, and belong to its driver."""
PART_BYTES = 45_000_000
GRACE_S = 40.0
"""Seconds that a stopped command has to save its state."""
CHECKPOINT_S = 90
"""Seconds between two checkpoints: a stop within a call of ten minutes costs no more."""
STOPPED = 75
"""Exit code of a run that the limit ended."""
EXTRA = "test"
"""Extra of pyproject.toml that the stages need."""


class CardStage(NamedTuple):
    """A stage with its minutes on an H100, a guess until it has run on one."""

    minutes: float
    about: str


STAGES = {
    "check": CardStage(3, "the tests that need a card"),
    "shapes": CardStage(10, "linears of LLaMA2-7B and SmolLM2, 2:4 against dense, in bf16 and fp8"),
    "decode": CardStage(8, "tokens per second of SmolLM2 with CUDA graphs"),
    "prefill": CardStage(10, "prompts, and linears on the model's own weights"),
    "train": CardStage(
        6, f"{TRAINED} on SmolLM2 by {RECIPE}: tokens per second, share of the peak"
    ),
    "quality": CardStage(8, f"{TRAINED} by {COMPARED}: perplexity and KL, beside those of a CPU"),
}


def commands(stage: str, results: Path) -> list[list[str]]:
    """Return the commands of a stage."""
    place = ["--device", "cuda", "--results", str(results)]

    def bench(words: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "bench", *words.split(), *place, *more]

    def train(settings: str) -> list[list[str]]:
        words = f"run --model {MODEL} --quant none --dtype bfloat16 {settings}"
        words += f" --set=training.checkpoint_s={CHECKPOINT_S} --set=perplexity.seqlen=512"
        return [bench(words, "--methods", method) for method in TRAINED.split(",")]

    speed = (
        f"run --model {MODEL} --methods magnitude --quant none --measures speed --dtype bfloat16"
    )
    if stage == "check":
        words = "-m pytest -n 0 -m cuda tests/parts/speed/test_cuda.py"
        return [[sys.executable, *words.split()]]
    if stage == "shapes":
        kinds = ["--kinds", "bf16,fp8", "--tokens", "1,16,512,8192"]
        figures = {m: ["--figure", str(results / f"{m}.svg")] for m in SHAPES}
        return [bench(f"speed --model {m}", *kinds, *figure) for m, figure in figures.items()]
    if stage == "decode":
        return [bench(speed, '--set=speed.workloads=["decode"]')]
    if stage == "prefill":
        return [bench(speed, '--set=speed.workloads=["prefill", "linears"]')]
    if stage == "train":
        timed = f"--set=training.recipe={RECIPE} --set=training.tokens={STEPS_TOKENS}"
        return train(f"{timed} --measures size")
    measured = f"--set=training.recipe={COMPARED} --measures perplexity,agreement"
    return train(f"{measured} --set=perplexity.windows=120")


def plan_of(command: list[str]) -> list[str]:
    """Return a command that collects, computes limits or plans, for a machine without a card."""
    if "pytest" in command:
        return [*command, "--collect-only"]
    words = ["cpu" if word == "cuda" else word for word in command]
    if words[3] == "speed":
        return [*words[: words.index("--device")], "--device-spec", "h100"]
    return [*words[:3], "plan", *words[4:]]


def needs() -> Iterator[tuple[str, str]]:
    """Yield what this machine lacks, and how to get it."""
    for requirement in _requirements():
        name = re.split(r"[ <>=!~;\[]", requirement)[0]
        if not any(metadata.distributions(name=name)):
            ways = "pip install -e '.[test]', or --from DIR with what --pack wrote elsewhere"
            yield f"package {requirement}", NOT_PACKED if THERE.match(name) else ways
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
            way = f"bench pull {corpus}; quality is measured on wiki-mini without it"
            yield f"text {corpus}", way


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][EXTRA]]


def show_use(results: Path) -> None:
    """Print tokens per second of each training, and the share of the card's peak."""
    import torch

    from bench.inputs.datasheets import find_spec
    from bench.parts.speed import roofline
    from bench.results.store import ReadOnlyStore

    sizes = roofline.model_sizes(MODEL, None)
    weights = sizes.head + sum(out * width * count for (out, width), count in sizes.linears.items())
    card = find_spec(torch.cuda.get_device_name())
    for record in ReadOnlyStore(results):
        identity, rate = record.identity, record.cost.get("training_tokens_per_s")
        if rate is None or identity.measure != "pattern" or identity.training.recipe != RECIPE:
            continue
        # A step has six products per weight, and eight with a teacher's forward pass.
        passes = 6 if identity.method.startswith("dense-ft") else 8
        text = f"{identity.method}: {rate:,.0f} tokens/s"
        if card:
            peak = card.peak("bf16") * 1e12
            text += f", {passes * weights * rate / peak:.0%} of the peak"
        print(text)


def pack(folder: Path) -> None:
    """Write wheels and the model into parts of an archive, for a machine with the same Python."""
    from bench.inputs import download
    from bench.system.cache import cache_dir

    download.pull(MODEL, None)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as room:
        wheels, archive = Path(room) / "wheels", Path(room) / "archive.tar.gz"
        packages = [f"{name}=={metadata.version(name)}" for name in sorted(_closure())]
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels)]
        subprocess.run([*pip, *packages, str(ROOT)], check=True)
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(wheels, "wheels")
            tar.add(cache_dir() / "models" / MODEL, f"cache/models/{MODEL}")
        count = split(archive, folder)
    print(f"{count} parts in {folder}: copy them there, then python benchmarks/cuda.py --from DIR")


def split(archive: Path, folder: Path, size: int = PART_BYTES) -> int:
    """Cut a file into parts of at most `size` bytes. Returns how many."""
    count = 0
    with archive.open("rb") as stream:
        while content := stream.read(size):
            (folder / f"part-{count:03}").write_bytes(content)
            count += 1
    return count


def _closure() -> set[str]:
    """Return all packages that the stages need, as installed here, without those in THERE."""
    from packaging.requirements import Requirement

    waiting, found = [(text, "") for text in _requirements()], set[tuple[str, str]]()
    while waiting:
        text, wanted = waiting.pop()
        requirement = Requirement(text)
        name, marker = requirement.name.lower().replace("_", "-"), requirement.marker
        if THERE.match(name) or (marker and not marker.evaluate({"extra": wanted})):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += [(inner, extra) for inner in metadata.requires(name) or []]
    return {name for name, _ in found}


def unpack(folder: Path, place: Path) -> None:
    """Put the files of all parts into `place`, whole or not at all.

    Raises:
        ValueError: a part is missing or damaged.
    """
    found = sorted(folder.glob("part-*"))
    if not found:
        raise ValueError(f"no part-* in {folder}")
    try:
        with tempfile.TemporaryFile() as whole, tempfile.TemporaryFile() as plain:
            for part in found:
                whole.write(part.read_bytes())
            whole.seek(0)
            # Reading to the end compares the archive's checksum.
            shutil.copyfileobj(gzip.GzipFile(fileobj=whole), plain)
            plain.seek(0)
            with tarfile.open(fileobj=plain) as tar:
                # The filter refuses links and paths out of the folder.
                tar.extractall(place, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as fault:
        shutil.rmtree(place, ignore_errors=True)
        raise ValueError(f"a part is missing or damaged: copy all into {folder} again") from fault


def use_parts(folder: Path) -> dict[str, str]:
    """Unpack parts beside them, install the packages there, and return an environment with them."""
    place = folder / "unpacked"
    if not (place / "site").is_dir():
        unpack(folder, place)
        wheels = sorted(map(str, (place / "wheels").glob("*.whl")))
        flags = ("-q", "--no-index", "--no-deps", "--no-compile", "--target", str(place / "site"))
        subprocess.run([sys.executable, "-m", "pip", "install", *flags, *wheels], check=True)
    path = os.pathsep.join([str(ROOT), str(place / "site")])
    own = {"PYTHONPATH": path, "CAST_BENCH_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    return os.environ | own


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    asked.add_argument("--results", type=Path, default=Path("results/local/speed-cuda"))
    asked.add_argument("--stage", default=",".join(STAGES), help="by commas")
    asked.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS")
    asked.add_argument("--archive", type=Path, metavar="FILE", help="a .tar.gz for the records")
    asked.add_argument("--needs", action="store_true")
    asked.add_argument("--pack", type=Path, metavar="DIR")
    asked.add_argument("--from", type=Path, metavar="DIR", dest="source")
    given = asked.parse_args()
    chosen = given.stage.split(",")
    if unknown := [name for name in chosen if name not in STAGES]:
        asked.error(f"unknown stage {unknown[0]!r}: use some of {', '.join(STAGES)}")
    if given.pack:
        pack(given.pack)
        return 0
    if given.source:
        try:
            environment = use_parts(given.source)
        except ValueError as fault:
            asked.error(str(fault))
        source = argparse.ArgumentParser(add_help=False)
        source.add_argument("--from")
        words = [sys.executable, __file__, *source.parse_known_args()[1]]
        return subprocess.run(words, env=environment, check=False).returncode
    if given.needs:
        lacking = list(needs())
        for thing, way in lacking:
            print(f"{thing}: {way}")
        return 1 if lacking else 0
    return run(chosen, given.results, time.monotonic() + given.limit, given.archive)


def call(command: list[str], end: float) -> int:
    """Run a command until a time of `time.monotonic`. Then interrupt it, and kill it if need be."""
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


def run(chosen: list[str], results: Path, end: float, archive: Path | None = None) -> int:
    """Run stages in order, or plan them without a card. Returns the largest exit code.

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
    for name in (name for name in STAGES if name in chosen):
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
