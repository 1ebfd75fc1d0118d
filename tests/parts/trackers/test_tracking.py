"""What trackers are told of a run, and that none of them can fail it."""

import io
import json
import subprocess
import sys

import pytest

from bench import api
from bench.execution.listener import RunningArtifact, TimeLeft
from bench.execution.progress import LogDisplay
from bench.parts.trackers import process, tracking
from bench.system import interpreter
from helpers import runs

RECORD = "import sys; open({path!r}, 'a').writelines(sys.stdin)"
FAIL = "print('Refused: no server'); raise SystemExit(1)"
DIE = "raise SystemExit(3)"
KILL = "import os; os.kill(os.getpid(), 9)"
HANG = "import time; time.sleep(1000)"


@pytest.fixture
def told(monkeypatch, tmp_path):
    """told(program) -> its records, and what a run said."""
    runs.own_cache(tmp_path, monkeypatch)
    runs.workers_here(monkeypatch)
    monkeypatch.setattr(tracking.Tracking, "require", lambda names: None)

    def run(program, methods, close_s=60.0):
        monkeypatch.setattr(
            tracking.interpreter, "command", lambda module, *_: [sys.executable, "-c", program]
        )
        monkeypatch.setattr(tracking, "CLOSE_S", close_s)
        spec = runs.small(
            tmp_path / "r",
            methods=methods,
            measures=("perplexity",),
            training={"tokens": 1024, "batch": 4, "seqlen": 32},
            log_to=("mlflow",),
        )
        said = io.StringIO()
        summary = api.execute(spec, LogDisplay(said))
        assert summary.records and not summary.failed
        return summary.records, [
            line for line in said.getvalue().splitlines() if "--log-to" in line
        ]

    return run


class Listener:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.said = []

    def __getattr__(self, action):
        return lambda **arguments: self.said.append((action, arguments))


def test_a_missing_package_is_one_sentence_before_anything_is_loaded(
    refused, monkeypatch, tmp_path
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("bench.api.make_plan", lambda *_args, **_kwargs: pytest.fail("it went on"))

    said = refused("run", "--log-to", "wandb,mlflow", "--results", str(tmp_path / "r"))
    assert "--log-to wandb needs the package wandb: pip install 'cast-bench[wandb]'" in said


def test_orders_reach_the_tracker_and_what_was_left_open_has_failed():
    tracker = Listener()
    orders = [
        {"do": "start", "artifact": "a", "name": "n", "params": {}, "tags": {}},
        {"do": "end", "artifact": "a", "ok": True},
        {"do": "start", "artifact": "b", "name": "n", "params": {}, "tags": {}},
    ]

    process.tell(tracker, map(json.dumps, orders))

    assert tracker.said[1] == ("end", {"artifact": "a", "ok": True})
    assert tracker.said[-2:] == [("end", {"artifact": "b", "ok": False}), ("close", {})]
    assert len(tracker.said) == 5


def test_a_tracker_is_told_of_each_artifact(told, tmp_path):
    path = tmp_path / "told.jsonl"
    records, said = told(RECORD.format(path=str(path)), ("cast",))
    orders = [json.loads(line) for line in path.read_text().splitlines()]

    assert not said
    starts = {order["artifact"]: order for order in orders if order["do"] == "start"}
    assert set(starts) == {record.artifact for record in records} and len(starts) == 2
    found = {(o["artifact"], o["ok"]) for o in orders if o["do"] == "end"}
    assert found == {(key, True) for key in starts}
    trained = next(order for order in starts.values() if order["params"]["method"] == "cast")
    assert trained["name"].startswith("tiny cast")
    assert trained["params"]["key.training.tokens"] == "1024"
    assert trained["params"]["key.stages.0.name"] == "cast"
    assert trained["params"]["arithmetic"] == trained["params"]["dtype"] == "float32"
    assert trained["tags"]["cast_bench.key"] == trained["artifact"]
    assert trained["params"]["perplexity.windows"] == "4"
    assert trained["params"]["perplexity.corpus"] == "wiki-mini"
    assert trained["tags"]["cast_bench.record.perplexity"] in {record.key for record in records}
    assert {"cast_bench.run", "cast_bench.version"} <= set(trained["tags"])
    losses = [
        o
        for o in orders
        if o["do"] == "curve" and o["artifact"] == trained["artifact"] and "loss" in o["figures"]
    ]
    assert losses and losses[-1]["step"] >= losses[0]["step"]
    for record in records:
        values = {}
        for order in orders:
            if order["do"] == "metrics" and order["artifact"] == record.artifact:
                values |= order["values"]
        for reading in record.readings:
            name = f"{record.identity.measure}/{reading.metric}"
            assert values[name] == reading.value
            if reading.stderr:
                assert values[f"{name}_low"] < reading.value < values[f"{name}_high"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (FAIL, "Refused: no server"),
        pytest.param(DIE, "the process ended with code 3", marks=pytest.mark.full),
        pytest.param(KILL, "the process was killed by SIGKILL", marks=pytest.mark.full),
        (HANG, "not all was sent"),
    ],
    ids=["fails", "dies", "is killed", "hangs"],
)
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(told, program, words):
    _, said = told(program, ("dense",), close_s=0.5 if program == HANG else 60.0)

    assert len(said) == 1 and words in said[0]


@pytest.fixture
def track(monkeypatch):
    """track(program, *names) -> trackers, and what they say."""

    def make(program, *names):
        monkeypatch.setattr(
            tracking.interpreter, "command", lambda module, *_: [sys.executable, "-c", program]
        )
        said = []
        return tracking.Tracking(names, "run", lambda key: None, said.append), said

    return make


@pytest.mark.parametrize(
    ("kind", "patience"), [(None, tracking.CLOSE_S), (SystemExit, tracking.STOPPED_S)]
)
def test_all_trackers_have_one_deadline_which_is_near_after_a_signal(
    track, monkeypatch, kind, patience
):
    trackers, said = track(HANG, "mlflow", "wandb")
    asked = []
    monkeypatch.setattr(tracking.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(
        tracking._Channel, "has_ended", lambda channel, deadline: asked.append(deadline)
    )
    trackers.close(kind and kind())

    assert asked == [100 + tracking.SILENT_S] * 2 + [100 + patience] * 2 + [0.0] * 2
    assert said == [
        f"waiting up to {patience:g} s for mlflow and wandb; Ctrl-C leaves the rest",
        "--log-to mlflow: not all was sent",
        "--log-to wandb: not all was sent",
    ]


def test_ctrl_c_leaves_what_a_tracker_still_has_to_send(track, monkeypatch):
    def interrupted(channel, deadline):
        if deadline:
            raise KeyboardInterrupt

    trackers, said = track(HANG, "mlflow")
    monkeypatch.setattr(tracking._Channel, "has_ended", interrupted)
    trackers.close()

    assert said == ["--log-to mlflow: not all was sent"]
    assert trackers._channels[0]._process.returncode is not None


def test_what_another_run_has_recorded_is_not_sent_again(track, tmp_path, monkeypatch):
    trackers, _ = track(HANG)
    told = []
    monkeypatch.setattr(trackers, "_channels", ["a tracker"])
    monkeypatch.setattr(trackers, "_tell", lambda action, artifact, **_: told.append(action))
    measurements = next(iter(api.plan(runs.small(tmp_path / "r")).artifacts().values()))
    running = RunningArtifact(measurements, "tiny dense", "cpu")
    trackers.start(running, TimeLeft())
    event = {"event": "measurement", "key": measurements[0].key, "status": "ok", "known": True}
    trackers.take(running, event, TimeLeft())
    assert not told
    trackers.take(running, {"event": "imported"}, TimeLeft())

    assert told == ["start"]


def test_what_no_tracker_takes_is_not_kept(track, monkeypatch):
    (channel,) = track(DIE, "mlflow")[0]._channels
    channel._process.wait()
    channel.send({"do": "start"})
    channel._writer.join()
    channel.send({"do": "metrics"})
    assert channel._orders.empty()

    monkeypatch.setattr(tracking, "MAX_CURVES", 2)
    (channel,) = track(HANG, "mlflow")[0]._channels
    for action in ("start", "curve", "curve", "curve", "curve", "metrics"):
        channel.send({"do": action, "what": "x" * 2**20})
    assert channel._orders.qsize() in (2, 3, 4), "the first may be on its way"
    channel.close()


OF = {"artifact": "a"}
CURVE = OF | {"do": "curve", "phase": "cast"}
VALUES = {"perplexity/perplexity": 9.5, "perplexity/perplexity_low": 9.1, "zeroshot x/acc %": 1.0}
START = OF | {"do": "start", "name": "tiny cast", "tags": {"cast_bench.key": "a"}}
ORDERS = [
    START | {"params": {"key.x": "y" * 9000}},
    CURVE | {"step": 1, "figures": {"loss": 3.0, "tokens_per_s": 7.0}},
    CURVE | {"step": 2, "figures": {"loss": 2.0}},
    OF | {"do": "metrics", "values": VALUES},
    OF | {"do": "end", "ok": True},
]


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"])
def test_mlflow_has_the_run(monkeypatch, tmp_path, store):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'cast-bench[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    process.tell(process.make("mlflow"), map(json.dumps, ORDERS))

    client = mlflow.tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("cast-bench").experiment_id])
    assert run.info.run_name == "tiny cast" and run.info.status == "FINISHED"
    assert run.data.tags["cast_bench.key"] == "a" and len(run.data.params["key.x"]) == 500
    assert run.data.metrics["perplexity/perplexity"] == 9.5
    assert run.data.metrics["zeroshot x/acc _"] == 1.0
    found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "cast/loss")]
    assert found == [(1, 3.0), (2, 2.0)]


def test_mlflow_says_soon_that_a_server_refuses(monkeypatch):
    pytest.importorskip("mlflow", reason="pip install 'cast-bench[mlflow]'")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    environment = interpreter.environment() | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = interpreter.command("bench.parts.trackers.process", "mlflow")
    done = subprocess.run(
        command, env=environment, input="", capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1 and done.stdout.startswith("MlflowException: ")
    assert "Connection refused" in done.stdout


def test_wandb_has_the_run(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="pip install 'cast-bench[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    process.tell(process.make("wandb"), map(json.dumps, ORDERS))

    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    for word in (b"tiny cast", b"cast/loss", b"perplexity/perplexity", b"cast_bench.key", b"9.5"):
        assert word in content


LINES = """
class Lines:
    'Lines of a file.'

    def start(self, artifact, name, params, tags):
        self.file = open(FILE, "a")
        self.file.write(name + "\\n")

    def curve(self, artifact, phase, step, figures):
        pass

    def metrics(self, artifact, values):
        self.file.writelines(f"{name}\\n" for name in values)

    def end(self, artifact, ok):
        self.file.write(f"ok={ok}\\n")

    def close(self):
        self.file.close()
"""


@pytest.fixture
def lines(tmp_path, installed):
    """A tracker of another package, which has a second one with the name of ours."""
    file = tmp_path / "lines.txt"
    targets = {"lines": "Lines", "wandb": "Lines", "lost": "Lost"}
    names = {name: f"lines_tracker:{target}" for name, target in targets.items()}
    source = f"FILE = {str(file)!r}\n" + LINES.replace("\\\\", "\\")
    installed("lines_tracker", source, trackers=names)
    return file


def test_a_tracker_of_another_package_follows_a_run(lines, tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)
    runs.workers_here(monkeypatch)

    api.execute(
        runs.small(tmp_path / "r", methods=("dense",), measures=("perplexity",), log_to=("lines",))
    )

    first, *metrics, last = lines.read_text().splitlines()
    assert "tiny dense" in first and "perplexity/perplexity" in metrics and last == "ok=True"


def test_it_is_in_the_help_and_in_errors(lines, output, refused, cli, tmp_path):
    assert "lines: Lines of a file." in " ".join(output("run", "--help").split())
    assert "unknown tracker line: did you mean lines" in refused("plan", "--log-to", "line")
    said = refused("run", "--log-to", "lost", *runs.flags(tmp_path / "r"))
    assert (
        "plug-in 'lost' cannot be used (AttributeError: module 'lines_tracker' has no attribute "
        "'Lost'" in said
    )
    said = cli("run", "--log-to", "wandb,lost", *runs.flags(tmp_path / "r"))[2]
    assert "plug-in wandb is ignored: the name is built in" in said
