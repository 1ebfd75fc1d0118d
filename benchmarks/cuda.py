"""The first hour on a CUDA card: stages, the most valuable first, each with its records.

python benchmarks/cuda.py --needs                what this machine lacks; exit code 1 if anything
python benchmarks/cuda.py --pack DIR [...]       what it may lack, for a machine without a network
python benchmarks/cuda.py --from DIR [...]       unpack and use them
python benchmarks/cuda.py                        the stages of the first half hour
python benchmarks/cuda.py --stage more           the other stages; or some by name: shapes,decode
python benchmarks/cuda.py --model llama2-7b      pruners and quantizers of your own model
python benchmarks/cuda.py --dry                  check commands, sizes and times, without computing
python benchmarks/cuda.py --tiny                 all stages on the CPU with tiny, to test them

Recorded numbers are not measured again, and a stage that ended well is skipped, so the same command
goes on. --limit SECONDS and Ctrl-C stop it, a training after a checkpoint, with exit code 75. The
archive has logs, records, a report of them, and stages.md: the time of each stage beside its guess,
and the cause of a failure. It is written after each stage. The script starts without any package.
torch is not packed: a machine with a card has the one for its driver.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
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
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
MODEL, SECOND = "smollm2-135m-instruct-q4", "gemma-3-270m"
SMALL = "tiny"
SHAPES = "llama2-7b"
TRAINED = "cast,retrain,dense-ft"
RECIPE, STEPS_TOKENS = "small-gpu", 80 * 128 * 1024
"""Recipe of the timed trainings, and tokens of enough steps to show their speed."""
COMPARED, COMPARED_TOKENS = "short-cpu", 4 * 819_200
"""Recipe of the trainings whose quality is measured, and tokens: four times the recipe's."""
PRUNED = "run --methods wanda,sparsegpt,recon --quant none,int4-gptq"
WINDOWS = "--set perplexity.seqlen=512 --set perplexity.windows=120"
"""Windows of the records in results/smollm2, which are of a CPU."""
TOLERANCE = 0.02
"""Largest relative difference of a perplexity between a card and a CPU: products are summed in
another order, which changes masks near ties."""
ATEN = {"TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS": "ATEN"}
"""Environment in which torch.compile does not search kernels, which takes minutes a shape."""
NOT_PACKED = "install the one for this machine's CUDA driver; --pack leaves it out"
THERE = re.compile(r"(torch|triton|nvidia|cuda)([-_.].*)?$")
"""Packages that a machine with a card has: they are large, and belong to its driver."""
PART_BYTES = 45_000_000
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GRACE_S = 40.0
"""Seconds that a stopped command has to save its state."""
CHECKPOINT_S = 90
"""Seconds between two checkpoints: a stop within a call of ten minutes costs no more."""
STOPPED = 75
"""Exit code of a run that the limit or Ctrl-C ended."""
EXTRAS = ("test", "torchao")
"""Extras of pyproject.toml that the stages need. torchao has the fp8 kernel for Hopper."""


class CardStage(NamedTuple):
    """A stage with its minutes on an H100, a guess until it has run on one."""

    minutes: float
    about: str
    is_first: bool = True
    """True if it belongs to the first half hour."""


STAGES = {
    "smoke": CardStage(2, "pruners, cast and int4-gptq on tiny, beside the same on the CPU"),
    "train": CardStage(8, "cast and retrain from recon on SmolLM2 at 3.3 million tokens"),
    "quality": CardStage(4, "pruners and int4-gptq on {model}: perplexity and KL"),
    "shapes": CardStage(6, "linears of {shapes}, 2:4 against dense, in bf16, then fp8"),
    "decode": CardStage(5, "tokens per second of {model} with CUDA graphs"),
    "gemma": CardStage(8, "train on Gemma 3", is_first=False),
    "prefill": CardStage(8, "prompts, and linears on the model's own weights", is_first=False),
    "rate": CardStage(
        6, f"{TRAINED} on SmolLM2 by {RECIPE}: tokens/s and share of the peak", is_first=False
    ),
    "check": CardStage(3, "the tests that need a card", is_first=False),
}
OWN = ("smoke", "quality", "shapes", "decode")
"""Stages of --model."""


class Rig(NamedTuple):
    """Where and on what the stages run."""

    results: Path
    device: str = "cuda"
    model: str = MODEL
    is_tiny: bool = False
    """True to take tiny in place of each model, and few tokens."""
    is_dry: bool = False
    """True to check each command instead of running it."""

    def bench(self, words: str, model: str, *more: str) -> list[str]:
        """Return a command of bench."""
        few = ""
        if self.is_tiny and words.startswith("run"):
            few = "--set calibration.sequences=8"
            if not {"size", "speed"} & set(words.split()):
                few += " --set perplexity.windows=8"
        options = " ".join([words, *more, few])
        command = [sys.executable, "-m", "bench", *options.split()]
        place = ["--device", self.device, "--results", str(self.results)]
        return [*command, "--model", SMALL if self.is_tiny else model, *place]

    @property
    def shapes(self) -> str:
        """Model whose linears are timed."""
        return SHAPES if self.model == MODEL else self.model

    def minutes(self, stage: str) -> float:
        """Return the guess for a stage, or 0.0 for rows of another model, which are planned."""
        is_planned = self.model != MODEL and stage == "quality"
        return 0.0 if is_planned else STAGES[stage].minutes

    def words(self, stage: str) -> str:
        """Return what a stage does."""
        return STAGES[stage].about.format(model=self.model, shapes=self.shapes)

    def about(self, stage: str) -> str:
        minutes = f"about {self.minutes(stage):g} minutes" if self.minutes(stage) else "as planned"
        return f"{stage}: {minutes}: {self.words(stage)}"

    @property
    def windows(self) -> str:
        """Settings of perplexity. Another model, and tiny, has those of its alias."""
        return "" if self.is_tiny or self.model != MODEL else WINDOWS

    def train(self, model: str, methods: str, recipe: str, tokens: int) -> list[list[str]]:
        """Return a command for each training."""
        words = f"run --quant none --dtype bfloat16 --set training.recipe={recipe}"
        words += f" --set training.checkpoint_s={CHECKPOINT_S} --set training.tokens="
        if self.is_tiny:
            words += "32768 --set training.batch=8 --set training.seqlen=128"
        else:
            words += str(tokens)
        if recipe == RECIPE:
            words += " --measures size"
        else:
            words += f" --measures perplexity,agreement,size {self.windows}"
        return [self.bench(words, model, f"--methods {name}") for name in methods.split(",")]


def commands(stage: str, rig: Rig) -> list[list[str]]:
    """Return the commands of a stage."""
    if stage == "smoke":
        words = "run --methods wanda,sparsegpt,recon,cast --quant none,int4-gptq --dtype float32"
        words += " --measures perplexity --set training.tokens=40960 --set threads=2"
        sides = {rig.device: "smoke", "cpu": "smoke-cpu"}
        if rig.device == "cpu":
            sides = {"cpu": "smoke"}
        return [
            rig._replace(device=device, results=rig.results / name).bench(words, SMALL)
            for device, name in sides.items()
        ]
    if stage == "check":
        tests = ROOT / "tests" / "parts" / "speed" / "test_cuda.py"
        words = "-m pytest -n 0 -m cuda"
        return [[sys.executable, *words.split(), str(tests)]]
    if stage == "shapes":
        if rig.device == "cpu":
            return [rig.bench("speed --engine native --threads 1 --tokens 16", rig.shapes)]
        words = "speed --tokens 1,512,8192 --kinds"
        return [rig.bench(f"{words} {kind}", rig.shapes) for kind in ("bf16", "fp8")]
    if stage in ("decode", "prefill"):
        loads = '["prefill","linears"]'
        if stage == "decode" or rig.device == "cpu":  # a CPU has no other
            loads = '["decode"]'
        words = "run --methods magnitude --quant none --measures speed --dtype bfloat16"
        return [rig.bench(words, rig.model, f"--set=speed.workloads={loads}")]
    if stage == "quality":
        words = f"{PRUNED} --dtype bfloat16 --measures perplexity,agreement,size"
        return [rig.bench(words, rig.model, rig.windows)]
    if stage == "rate":
        return rig.train(MODEL, TRAINED, RECIPE, STEPS_TOKENS)
    model = MODEL if stage == "train" else SECOND
    return rig.train(model, "cast:from=recon,retrain:from=recon", COMPARED, COMPARED_TOKENS)


def checked(command: list[str], card: str) -> list[str]:
    """Return the command that checks another and computes nothing: the plan of a run, the limits of
    a model's shapes, or the names of tests.

    card: name of a card's datasheet.
    """
    if "pytest" in command:
        return [*command, "--collect-only"]
    if command[3] == "speed":
        model = command.index("--model")
        return [*command[:4], "--device-spec", card, *command[model : model + 2]]
    instead = {"run": "plan", "cuda": card}
    return [instead.get(word, word) for word in command]


def name_of_card() -> str:
    """Return the name of this card's datasheet, or that of an H100."""
    import torch

    from bench.inputs.datasheets import device_specs, find_spec

    card = find_spec(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return next((name for name, spec in device_specs().items() if spec == card), "h100")


def compare_devices(results: Path) -> list[str]:
    """Return each perplexity of the stage smoke that differs between the card and the CPU."""
    from bench.results.store import ReadOnlyStore

    found: dict[tuple[str, str], list[float]] = {}
    sides = [results / name for name in ("smoke", "smoke-cpu") if (results / name).is_dir()]
    for folder in sides:
        for record in ReadOnlyStore(folder):
            row = (record.identity.method, record.identity.quantizer)
            found.setdefault(row, [])
            found[row] += [r.value or 0.0 for r in record.readings if r.metric == "perplexity"]
    faults = []
    for row, values in found.items():
        if len(values) < len(sides) or max(values) > (1 + TOLERANCE) * min(values):
            faults.append(f"{' + '.join(row)}: {values}")
    print(f"smoke: {len(found)} rows, {len(faults)} differ by more than {TOLERANCE:.0%}")
    return faults


def needs() -> Iterator[tuple[str, str]]:
    """Yield what this machine lacks, and how to get it."""
    for requirement in _requirements():
        name = re.split(r"[ <>=!~;\[]", requirement)[0]
        if not any(metadata.distributions(name=name)):
            ways = (
                "pip install -e '.[test,torchao]', or --from DIR with what --pack wrote elsewhere"
            )
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
    found: list[str] = project["dependencies"]
    for extra in EXTRAS:
        found += project["optional-dependencies"][extra]
    return found


def training_speeds(rig: Rig) -> list[str]:
    """Return a line with the tokens per second of each timed training, and the share of the peak of
    a card with a datasheet."""
    import torch

    from bench.inputs.datasheets import find_spec
    from bench.parts.speed import roofline
    from bench.results.store import ReadOnlyStore

    rates: dict[str, float] = {}
    for record in ReadOnlyStore(rig.results):
        identity, rate = record.identity, record.cost.get("training_tokens_per_s")
        recipe = identity.training.recipe if identity.training else ""
        if rate is not None and identity.measure == "pattern" and recipe == RECIPE:
            rates[identity.method] = rate
    card = find_spec(torch.cuda.get_device_name()) if rig.device == "cuda" else None
    lines = [f"- {method}: {rate:,.0f} tokens/s in training" for method, rate in rates.items()]
    if not card or not rates:
        return sorted(lines)
    sizes = roofline.model_sizes(MODEL, None)
    weights = sizes.head + sum(out * width * count for (out, width), count in sizes.linears.items())
    for index, (method, rate) in enumerate(rates.items()):
        # A step has six products per weight, and eight with a teacher's forward pass.
        passes = 6 if method.startswith("dense-ft") else 8
        share = passes * weights * rate / (card.peak("bf16") * 1e12)
        lines[index] += f", {share:.0%} of the peak of {card.name} in bf16"
    return sorted(lines)


def pack(folder: Path, python: str, models: list[str], there: dict[str, str]) -> None:
    """Write wheels, and GGUF files of models, into parts of an archive.

    python: version of the other machine's Python, such as 3.12; there: versions of the packages
    that the other machine has, by name.
    """
    from bench.inputs.models import alias_of

    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as room:
        wheels, archive = Path(room) / "wheels", Path(room) / "archive.tar.gz"
        pip = [sys.executable, "-m", "pip"]
        built = ["wheel", "-q", "--no-deps", "-w", str(wheels)]
        subprocess.run([*pip, *built, *_closure(there, python), str(ROOT)], check=True)
        # Those of pure Python suit the other machine too.
        compiled = [w for w in wheels.iterdir() if not w.name.endswith("none-any.whl")]
        if compiled and python != OWN_PYTHON:
            there_too = ["-q", "--no-deps", "--only-binary", ":all:", "--python-version", python]
            names = ["==".join(wheel.name.split("-")[:2]) for wheel in compiled]
            subprocess.run([*pip, "download", *there_too, "-d", str(wheels), *names], check=True)
            for wheel in compiled:
                if "-abi3-" not in wheel.name and "-py3-" not in wheel.name:
                    wheel.unlink()
        # Their GGUF files are converted there, where a model is five times as large.
        files = Path(room) / "models"
        files.mkdir()
        for model in models:
            alias = alias_of(model)
            if alias and alias.source == "pypi":
                names = [part.partition(":")[0] for part in alias.ref.split(" + ")]
                into = ["-q", "--no-deps", "-d", str(files / model)]
                subprocess.run([*pip, "download", *into, *names], check=True)
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(wheels, "wheels")
            tar.add(files, "models")
        count, size = split(archive, folder), archive.stat().st_size
    print(f"{count} parts, {size / 2**20:.0f} MiB: copy {folder} and a sparse checkout there, then")
    print("python benchmarks/cuda.py --from DIR")


def split(archive: Path, folder: Path, size: int = PART_BYTES) -> int:
    """Cut a file into parts of at most `size` bytes. Returns how many."""
    count = 0
    with archive.open("rb") as stream:
        while content := stream.read(size):
            (folder / f"part-{count:03}").write_bytes(content)
            count += 1
    return count


def _closure(there: dict[str, str], python: str = OWN_PYTHON) -> list[str]:
    """Return all packages that the stages need with a version of Python, in this machine's
    versions, without those in THERE and those that the other machine has."""
    from packaging.requirements import Requirement

    waiting, seen = [(text, "") for text in _requirements()], set[tuple[str, str]]()
    found: dict[str, str] = {}
    while waiting:
        text, wanted = waiting.pop()
        requirement = Requirement(text)
        name, marker = _normalize(requirement.name), requirement.marker
        target = {"extra": wanted, "python_version": python, "python_full_version": f"{python}.0"}
        if THERE.match(name) or (marker and not marker.evaluate(target)):
            continue
        if name in there and requirement.specifier.contains(there[name]):
            continue
        try:
            found[name] = f"{name}=={metadata.version(name)}"
        except metadata.PackageNotFoundError:
            found[name] = f"{name}{requirement.specifier}"
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(inner, extra) for inner in metadata.requires(name) or []]
    return sorted(found.values())


def _normalize(name: str) -> str:
    return name.lower().replace("_", "-")


def read_freeze(file: Path) -> dict[str, str]:
    """Return versions by name from what `pip freeze` printed. Other lines are left out."""
    pairs = [line.strip().partition("==") for line in file.read_text().splitlines()]
    return {_normalize(name): version for name, _, version in pairs if version}


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
                # Python has this filter from 3.11.4 on, and 3.12 warns without one.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                for member in tar:
                    outside = member.name.startswith("/") or ".." in Path(member.name).parts
                    if outside or not (member.isfile() or member.isdir()):
                        raise tarfile.ExtractError(f"{member.name} is no file of this folder")
                tar.extractall(place)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as fault:
        shutil.rmtree(place, ignore_errors=True)
        raise ValueError(f"a part is missing or damaged: copy all into {folder} again") from fault


def use_parts(folder: Path) -> dict[str, str]:
    """Unpack parts beside them, install the packages there, and return an environment with them."""
    place = folder / "unpacked"
    path = os.pathsep.join([str(ROOT), str(place / "site")])
    own = {"PYTHONPATH": path, "CAST_BENCH_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | own
    if not (place / "site").is_dir():
        unpack(folder, place)
        wheels = sorted(map(str, (place / "wheels").glob("*.whl")))
        flags = ("-q", "--no-index", "--no-deps", "--no-compile", "--target", str(place / "site"))
        subprocess.run([sys.executable, "-m", "pip", "install", *flags, *wheels], check=True)
    for files in sorted((place / "models").iterdir()):
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(files)}
        words = [sys.executable, "-m", "bench", "pull", files.name]
        subprocess.run(words, env=environment | pip, check=True)
    return environment


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    asked.add_argument("--results", type=Path, default=Path("results/local/cuda"))
    asked.add_argument("--stage", help="by commas; more: those after the first half hour")
    asked.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    asked.add_argument("--model", default=MODEL)
    asked.add_argument("--dry", action="store_true", help="check the commands on any machine")
    asked.add_argument("--tiny", action="store_true", help="run on the CPU, with tiny")
    asked.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS")
    asked.add_argument("--archive", type=Path, metavar="FILE", help="default: cuda.tar.gz in $OUT")
    asked.add_argument("--needs", action="store_true")
    asked.add_argument("--pack", type=Path, metavar="DIR")
    asked.add_argument("--python", default=OWN_PYTHON, help="with --pack: that of the card")
    there = "with --pack: what `pip freeze` prints there, whose packages are left out"
    asked.add_argument("--there", type=Path, metavar="FILE", help=there)
    asked.add_argument("--from", type=Path, metavar="DIR", dest="source")
    given = asked.parse_args()
    chosen = choose(given.stage, given.model, given.dry or given.tiny)
    if unknown := [name for name in chosen if name not in STAGES]:
        asked.error(f"unknown stage {unknown[0]!r}: use some of {', '.join(STAGES)}")
    if given.pack:
        models = [given.model, SECOND] if "gemma" in chosen else [given.model]
        pack(given.pack, given.python, models, read_freeze(given.there) if given.there else {})
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
    if given.archive is None and (out := os.environ.get("OUT")):
        given.archive = Path(out) / "cuda.tar.gz"
    device = "cpu" if given.tiny else given.device
    rig = Rig(given.results, device, given.model, given.tiny, given.dry)
    # A shell's background job and its commands ignore it, and then nothing is saved at the limit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(chosen, rig, time.monotonic() + given.limit, given.archive)
    except KeyboardInterrupt:
        print("stopped: the same command goes on", flush=True)
        return STOPPED


def choose(words: str | None, model: str, is_test: bool) -> list[str]:
    """Return the names of the stages that were asked for: all in a test without a card."""
    if words and words != "more":
        return words.split(",")
    if model != MODEL:
        return list(OWN)
    is_first = words != "more"
    return [name for name, stage in STAGES.items() if is_test or stage.is_first == is_first]


def call(command: list[str], end: float, log: Path) -> int:
    """Run a command until a time of `time.monotonic` or Ctrl-C. Then interrupt it, and kill it if
    need be. What it prints is also added to a log."""
    environment = os.environ | (ATEN if "fp8" in command else {})
    # Ctrl-C reaches only this process, which interrupts the command once.
    options: dict[str, Any] = {"env": environment, "process_group": 0}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with (
        subprocess.Popen(command, **options) as process,
        subprocess.Popen(["tee", "-ai", str(log)], stdin=process.stdout),
    ):
        try:
            return process.wait(None if end == math.inf else max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return STOPPED


class Outcome(NamedTuple):
    """How a stage ended."""

    seconds: float
    """Time in all calls."""
    code: int
    """Largest exit code of its commands in the last call."""
    cause: str = ""
    """Last line of the command that failed."""

    def __str__(self) -> str:
        if self.code == STOPPED:
            return "stopped: the same command goes on"
        return f"failed with exit code {self.code}: {self.cause}" if self.code else "done"


def outcomes(results: Path) -> dict[str, Outcome]:
    """Return the outcome of each stage that was begun, by name."""
    file = results / "stages.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return {name: Outcome(*values) for name, values in found.items()}


def write_outcome(rig: Rig, stage: str, outcome: Outcome) -> None:
    """Add the outcome of a stage to stages.json, and write the table of all stages."""
    found = outcomes(rig.results) | {stage: outcome}
    (rig.results / "stages.json").write_text(json.dumps(found, indent=1))
    device = "a CPU, with tiny in place of each model" if rig.is_tiny else name_of_device(rig)
    lines = [f"# Stages on {device}", "", "Each guess is for an H100 and the model that is named."]
    lines += ["", "| stage | guess | time | outcome |", "|---|---|---|---|"]
    for name, ended in found.items():
        minutes = rig.minutes(name)
        guess = f"{minutes:g} min" if minutes else "plan.log"
        about = f"{name}: {rig.words(name)}"
        lines.append(f"| {about} | {guess} | {ended.seconds / 60:.1f} min | {ended} |")
    more = [*training_speeds(rig), *without_numbers(rig.results)]
    (rig.results / "stages.md").write_text("\n".join([*lines, "", *more, ""]))


def name_of_device(rig: Rig) -> str:
    import torch

    return torch.cuda.get_device_name() if rig.device == "cuda" else "a CPU"


def without_numbers(results: Path) -> list[str]:
    """Return a line for each record that has no number, with the reason."""
    from bench.results.store import ReadOnlyStore

    lines = []
    for folder in (results, results / "smoke", results / "smoke-cpu"):
        for record in ReadOnlyStore(folder) if folder.is_dir() else ():
            about = record.identity
            row = f"{about.model} {about.method} {about.pattern} {about.quantizer} {about.measure}"
            if record.status != "ok":
                lines.append(f"- {row} is {record.status}: {record.reason}")
    return sorted(set(lines))


def last_line(log: Path) -> str:
    """Return the last line of a log, where a command says why it failed."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def keep(results: Path, archive: Path | None) -> None:
    """Write the records, the logs and a report of the records to an archive."""
    if archive is None:
        return
    if (results / "records").is_dir():
        words = ["report", "--results", str(results), "--out", str(results / "report")]
        report = [sys.executable, "-m", "bench", *words]
        if subprocess.run(report, check=False, stdout=subprocess.DEVNULL).returncode:
            print("the archive has no report of these records", file=sys.stderr)
    written = archive.with_name(f"{archive.name}.part")
    with tarfile.open(written, "w:gz") as out:
        out.add(results, results.name)
    written.replace(archive)


def run(chosen: list[str], rig: Rig, end: float, archive: Path | None = None) -> int:
    """Run stages in order. Returns the largest exit code.

    A command that fails does not end the run. A stage that ended well is skipped.
    """
    total = sum(rig.minutes(name) for name in chosen)
    print(f"{len(chosen)} of {len(STAGES)} stages, about {total:g} minutes on an H100", flush=True)
    if importlib.util.find_spec("torch") is None:
        print(f"package torch is missing: {NOT_PACKED}", file=sys.stderr)
        return 2
    import torch

    if rig.device == "cuda" and not rig.is_dry and not torch.cuda.is_available():
        print("no CUDA device: use --dry or --tiny to test the stages", file=sys.stderr)
        return 2
    rig.results.mkdir(parents=True, exist_ok=True)
    if rig.is_tiny:
        # A decoding step on a CPU is else compiled, for a minute or more.
        os.environ.setdefault("BENCH_EAGER", "1")
    if rig.model != MODEL and not rig.is_dry:
        print("and the time of this plan, for quality:", flush=True)
        (command,) = commands("quality", rig._replace(device="cuda", is_tiny=False))
        command = checked(command, name_of_card())
        print(">", *command, flush=True)
        call(command, end, rig.results / "plan.log")
    worst = 0
    for name in (name for name in STAGES if name in chosen):
        print(rig.about(name), flush=True)
        before, log = outcomes(rig.results).get(name), rig.results / f"{name}.log"
        if rig.is_dry:
            log = rig.results / f"{name}.dry.log"
        elif before and not before.code:
            print(f"  skipped: it took {before.seconds:.0f} s", flush=True)
            continue
        started, codes, cause = time.monotonic(), [], ""
        for command in commands(name, rig):
            if rig.is_dry:
                command = checked(command, name_of_card())
            print(">", *command, flush=True)
            with log.open("a") as file:
                print(">", *command, file=file)
            codes.append(call(command, end, log))
            if codes[-1] == STOPPED:
                break
            if codes[-1]:
                cause = last_line(log)
        seconds = time.monotonic() - started
        if not rig.is_dry:
            if name == "smoke" and not any(codes) and (faults := compare_devices(rig.results)):
                codes.append(1)
                cause = "; ".join(faults)
            if name == "rate":
                print(*training_speeds(rig), sep="\n", flush=True)
            all_calls = seconds + (before.seconds if before else 0.0)
            write_outcome(rig, name, Outcome(all_calls, max(codes), cause))
        print(f"{name}: exit codes {codes}, {seconds:.0f} s", flush=True)
        keep(rig.results, archive)
        worst = max(worst, *codes)
        if STOPPED in codes:
            print("stopped: the same command goes on", flush=True)
            return STOPPED
    return worst


if __name__ == "__main__":
    sys.exit(main())
