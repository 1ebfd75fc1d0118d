"""Small runs, a cache with the corpus in it, and distributions of other packages."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from bench.catalog import metric_owners, registry
from bench.catalog.entries import METHODS
from bench.cli import main
from bench.execution.events import Events
from bench.execution.processes import WorkerProcesses
from bench.execution.worker import Assignment, work
from bench.inputs import models
from bench.planning import plan
from bench.planning.spec import Spec
from bench.results import metrics
from bench.results.store import ReadOnlyStore, Store
from bench.system import module_files, source_digest
from bench.system.cache import cache_dir
from methods.contract.info import Does

USUAL = cache_dir()
TINY = Path(models.__file__).parents[1] / "assets/tiny"
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}
"""Environment of a process that reaches no hub: nobody listens there."""
SMALL = {
    "methods": ("magnitude",),
    "quantizers": ("none",),
    "measures": ("perplexity", "size"),
    "perplexity": {"windows": 4},
    "calibration": {"sequences": 4},
    "device": "cpu",
    "threads": 1,
}


ASKING = {"training", "cuda", "isolated"}
ONE_SHOT = [
    n
    for n, e in METHODS.items()
    if not (ASKING & set(e.needs) or e.extra or Does.IMPORTS in e.does)
]
"""Methods that need no training corpus, no device and no other library."""
PRUNERS = [n for n in ONE_SHOT if not METHODS[n].does & Does.LEAVES_DENSE]
"""Those of ONE_SHOT that set weights of their targets to zero."""
QUICK = {"recon": {"epochs": 1}, "admm": {"iterations": 3, "gradual": 2}, "alps": {"iterations": 9}}
"""Settings with which a method does the same in less time."""


def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache with nothing but the kernel, if it was ever compiled, and no way to a hub."""
    folder = tmp_path / "cache"
    folder.mkdir(parents=True)
    if (USUAL / "native").is_dir():
        shutil.copytree(USUAL / "native", folder / "native", copy_function=os.symlink)
    monkeypatch.setenv("CAST_BENCH_CACHE", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", NO_HUB["HF_ENDPOINT"])
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    return folder


def world(site, tmp_path, monkeypatch) -> Iterator[Path]:
    """Yield an own cache, with the distributions in the folder `site` as if installed."""
    put_on_path(site, monkeypatch)
    yield own_cache(tmp_path, monkeypatch)
    forget()


def tiny(folder, **config) -> Path:
    """A copy of tiny's folder. config: what differs in its config.json."""
    shutil.copytree(TINY, folder)
    if config:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | config))
    return folder


def store_as(folder, kind) -> Path:
    """Write the weights of a folder in a number format. Return the folder."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        dtype = getattr(torch, kind)
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def prune(folder, pattern="2:4"):
    """Magnitude on a folder as it lies."""
    from safetensors.torch import save_file

    from methods.contract.pattern import Pattern
    from methods.model.experts import fold
    from methods.model.families import FAMILIES
    from methods.model.folder import Folder
    from methods.model.targets import find_targets

    opened = Folder(folder)
    targets = {t + ".weight" for t in find_targets(opened.config, opened.shapes())}
    (file,) = opened.files()
    family = FAMILIES.get(opened.config["model_type"])
    tensors = {name: opened.tensor(name) for name in opened}
    for name in targets:
        keep = Pattern.parse(pattern).keep(tensors[name].abs())
        tensors[name] = tensors[name].where(keep, 0)
    save_file(dict(fold(tensors, tensors.__getitem__, family)), file, metadata={"format": "pt"})
    return folder


def running(label="tiny dense", key="a", measures=("perplexity",)):
    """An artifact at work as a listener sees it."""
    artifact = SimpleNamespace(key=key, model="tiny", pattern="2:4")
    by_key = {name: SimpleNamespace(key=name, label=name) for name in measures}
    return SimpleNamespace(
        artifact=artifact, label=label, device="cpu", by_key=by_key, waits=False, has_measured=True
    )


def progress(phase, done, total, **figures) -> dict:
    return {"event": "progress", "phase": phase, "done": done, "total": total, "figures": figures}


def small(results, **changes) -> Spec:
    return Spec(**(SMALL | {"results": results} | changes))


def flags(results, quantizers="none", windows: int | None = 4, **settings) -> list[str]:
    """The same small run for the command line. quantizers: None where the test names its own.
    windows: None where no measure reads windows."""
    known = {"calibration.sequences": 4, "device": "cpu", "threads": 1} | settings
    if windows:
        known = {"perplexity.windows": windows} | known
    asked = ["--quant", quantizers] if quantizers else []
    return ["--results", str(results), *asked, *(f"--set={k}={v}" for k, v in known.items())]


def run_here(spec, *, only=None) -> list[dict]:
    """What the workers of a run would say, without their processes. only: names of methods."""
    output = io.StringIO()
    if not (spec.results / "records").is_dir():
        Store(spec.results)  # as a run does first
    for measurements in plan.make_plan(spec, fetch=True).artifacts().values():
        if only is None or measurements[0].artifact.method in only:
            asked = Assignment(measurements=measurements, results=spec.results, wait=True)
            work(asked, Events(output))
    events = map(json.loads, output.getvalue().splitlines())
    return [e for e in events if e["event"] not in ("progress", "state", "imported")]


def measured(results, *, only=None, **changes) -> dict:
    """Run a small spec in this process, and return its records. only: names of methods."""
    run_here(small(results, **changes), only=only)
    return records(results)


class Here:
    """A worker that is no process: the runner's job is done here once its events are read."""

    def __init__(self):
        self._job = ""

    def send(self, line):
        self._job = line

    def lines(self) -> Iterator[str]:
        output = io.StringIO()
        with self._alone:
            work(Assignment.model_validate_json(self._job), Events(output))
        yield from output.getvalue().splitlines()

    pid = 0
    _alone = threading.Lock()  # two threads that load models in one process leave tied weights out

    def wait(self, timeout=None):
        return 0

    def is_stopped(self):
        return False

    def ignore(self, *_):
        """Do nothing, as there is no process."""

    send_signal = ask_to_end = stop = kill = close = ignore


def workers_here(monkeypatch) -> None:
    """From here on a run starts no processes, for tests of what becomes of its records."""
    monkeypatch.setattr(WorkerProcesses, "start", lambda processes, log: Here())


def records(results) -> dict:
    """Return every record by method, seed and measure, which must be unique."""
    found = {}
    for record in ReadOnlyStore(Path(results)):
        kind = record.identity.method, record.identity.seed, record.identity.measure
        assert kind not in found, f"{kind} twice in {results}"
        found[kind] = record
    return found


def same(record) -> dict:
    """The fields that two equal records share."""
    return record.model_dump(exclude={"provenance", "cost"})


def contents(results) -> dict:
    """Return every record by its key. None may be damaged or measured twice."""
    found, kinds = {}, set()
    for record in ReadOnlyStore(Path(results)):
        kind = json.dumps(record.identity.labels())
        assert kind not in kinds, f"doubled: {kind}"
        kinds.add(kind)
        found[record.key] = same(record)
    assert not (Path(results) / "corrupt").exists()
    return found


def left_over(results, cache) -> list[Path]:
    """What a run that ended well has no use for."""
    folders = [cache / part for part in ("tmp", "held", "training")] + [results / "locks"]
    return [*(p for folder in folders for p in folder.glob("*")), *results.rglob("*.tmp")]


def call(capsys, monkeypatch, *args):
    """The command line, in this process: exit code, stdout, stderr. The first of `args` may hold
    several words."""
    command, *others = map(str, args)
    monkeypatch.setattr(sys, "argv", ["bench", *command.split(), *others])
    capsys.readouterr()
    code = 0
    try:
        main.main()
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code or 0, out, err


def start(*args, **options) -> subprocess.Popen:
    """The command line, in its own process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "bench", *map(str, args)], **(pipes | options))


def distribution(folder: Path, name: str, source: str, **groups: dict[str, str]) -> Path:
    """Write a module and entry points as pip leaves them. groups: kind -> names."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for kind, names in groups.items():
        lines += [f"[cast_bench.{kind}]", *(f"{name} = {target}" for name, target in names.items())]
    (about / "entry_points.txt").write_text("\n".join([*lines, ""]))
    return folder


def put_on_path(folder: Path, monkeypatch) -> None:
    """For this process and those it starts."""
    monkeypatch.syspath_prepend(folder)
    for file in folder.glob("*.py"):
        if getattr(sys.modules.get(file.stem), "__file__", str(file)) != str(file):
            del sys.modules[file.stem]
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    forget()


def forget() -> None:
    """Let the catalog look again."""
    registry._installed_entry_points.cache_clear()
    registry._plugins.cache_clear()
    registry._import_plugin.cache_clear()
    metric_owners.of_plugins.cache_clear()
    metrics.find.cache_clear()
    source_digest.digest_source.cache_clear()
    module_files.find_file.cache_clear()
