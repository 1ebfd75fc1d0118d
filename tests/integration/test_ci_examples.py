"""What users copy into their builds: it parses, asks for few rights, and its commands run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from helpers import fake_records, runs

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/bench.yml").read_text())
PAGE = (ROOT / "docs/ci.md").read_text()
BLOCKS = {
    kind: re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("yaml", "toml", "bash")
}
GITHUB, GITLAB, NOTE = map(yaml.safe_load, BLOCKS["yaml"])
REVIEW, RELEASE = (
    yaml.safe_load((ROOT / f".github/workflows/{n}.yml").read_text())
    for n in ("submission", "release")
)
MAY_WRITE = {"comment": {"pull-requests": "write"}, "release": {"contents": "write"}}
"""Rights of the jobs that run no code of a change."""
EXAMPLES = [step for job in GITHUB["jobs"].values() for step in job["steps"]]
STEPS = [
    *ACTION["runs"]["steps"],
    *(s for w in (WORKFLOW, REVIEW, RELEASE) for job in w["jobs"].values() for s in job["steps"]),
    *EXAMPLES,
]
SMALL = """
methods = ["magnitude"]
quantizers = ["none"]
measures = ["perplexity"]
threads = 1
device = "cpu"
perplexity.windows = 4
"""


def test_a_build_may_read_and_nothing_else_but_for_the_job_that_comments():
    for workflow in (WORKFLOW, GITHUB, REVIEW, RELEASE):
        assert workflow["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in workflow[True]  # YAML 1.1 reads `on` so
        for name, job in workflow["jobs"].items():
            assert job.get("permissions") == MAY_WRITE.get(name)
            assert job["timeout-minutes"] <= 30
    for job in (WORKFLOW["jobs"]["comment"], REVIEW["jobs"]["comment"], RELEASE["jobs"]["release"]):
        assert not [word for word in ("checkout", "pip", "bench ") if word in str(job["steps"])]
    for workflow in (WORKFLOW, REVIEW):
        assert "head.repo.full_name == github.repository" in workflow["jobs"]["comment"]["if"]
    tag = "github.event_name == 'push' && github.ref_type == 'tag'"
    assert RELEASE["jobs"]["release"]["if"] == tag


def test_actions_are_pinned_and_a_checkout_keeps_no_token():
    for step in STEPS:
        if "uses" in step:
            # A commit cannot be moved.
            version = r"v\d+(\.\d+\.\d+)?" if step in EXAMPLES else "[0-9a-f]{40}"
            assert step["uses"] == "./.github/actions/gate" or re.fullmatch(
                rf"[\w./-]+@{version}", step["uses"]
            )
            if "checkout" in step["uses"]:
                assert step["with"]["persist-credentials"] is False


def test_no_expression_is_pasted_into_a_command():
    """A name with a quote in it would be code."""
    assert not [s for s in STEPS if "${{" in s.get("run", "")]


def test_every_input_is_declared_and_used():
    steps = [s for w in (WORKFLOW, GITHUB) for s in w["jobs"]["gate"]["steps"]]
    given = {name for step in steps if "gate" in step["uses"] for name in step["with"]}
    action = (ROOT / ".github/actions/gate/action.yml").read_text()
    used = set(re.findall(r"inputs\.([\w-]+)", action))
    assert given <= set(ACTION["inputs"]) == used
    assert all(i["description"] for i in ACTION["inputs"].values())


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The folder of a user's repository's commands. pip installs nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in (
        ("pip", "exit 0"),
        ("bench", f'exec {sys.executable} -m bench "$@"'),
        ("curl", 'echo "$@" > sent'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def room(path, tmp_path, monkeypatch):
    """A repository of a user's: a spec, margins, and a baseline."""
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "bench.toml").write_text(SMALL)
    (tmp_path / "gate.toml").write_text(BLOCKS["toml"][1])
    spec = runs.small(tmp_path / "results/local/ci", measures=("perplexity",))
    # The very same measurements, so that the commands measure one model, not two.
    runs.run_here(spec, only=["dense"])
    for line in BLOCKS["bash"][0].splitlines():
        assert shell(line)[0] == 0
    assert (tmp_path / "results/baselines/main.zip").exists()
    return tmp_path


def shell(command, **env):
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
        env=os.environ | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def act(given):
    """The action's steps in order, as a runner does: after a failure only those that always run."""
    values = {name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()}
    values |= given
    failed, output = 0, {}
    for step in ACTION["runs"]["steps"]:
        if "run" in step and (not failed or step.get("if") == "always()"):
            env = {
                k: re.sub(r"\$\{\{ inputs\.([\w-]+) }}", lambda m: values[m[1]], v)
                for k, v in step.get("env", {}).items()
            }
            code, output[step["name"]] = shell(step["run"], **env)
            failed = failed or code
    return failed, output


def test_the_action_can_be_strict(path, cli, tmp_path):
    """A gate whose numbers say nothing passes, unless it is strict."""
    results, baseline = tmp_path / "few", tmp_path / "before"
    fake_records.perplexity(baseline)
    fake_records.perplexity(results, 0.02, 0.2, made="b", noise=1)
    (path / "bench").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words\n')
    (gate,) = (step for step in ACTION["runs"]["steps"] if step.get("name") == "Gate")
    env = {"BASELINE": str(baseline), "RESULTS": str(results), "GATE_CONFIG": ""}
    assert {*env, "STRICT"} == set(gate["env"])
    for strict, expected in (("false", 0), ("true", 1)):
        assert shell(gate["run"], **env, STRICT=strict)[0] == 0
        assert cli(*(tmp_path / "words").read_text().splitlines())[0] == expected
    code, output = shell(gate["run"], **env, STRICT="yes")
    assert code == 2 and "give true or false" in output


def script(job):
    """GitLab's: one shell, and after_script whatever came of it."""
    code, output = shell("\n".join(job["script"]))
    variables = {"BENCH_TOKEN": "t", "CI_MERGE_REQUEST_IID": "1"}
    variables |= {"CI_API_V4_URL": "u", "CI_PROJECT_ID": "2"}
    assert shell("\n".join(NOTE["after_script"]), **variables)[0] == 0
    return code, output


@pytest.mark.full
def test_the_very_commands_pass_then_fail(room):
    code, output = act({"config": "bench.toml", "baseline": "main", "gate-config": "gate.toml"})
    assert code == 0, output
    assert len(list((room / "results/local/ci/records").iterdir())) == 4
    assert "::notice title=bench gate::passed" in output["Gate"]
    assert "bench gate passed" in (room / "summary.md").read_text()

    (report,) = GITLAB["bench"]["artifacts"]["reports"].values()
    # A baseline of what is not measured.
    fake_records.perplexity(room / "results/more", method="wanda")
    shell(
        "bench merge results/local/ci --results results/more && bench baseline set main --results "
        "results/more"
    )
    code, output = act({"config": "bench.toml", "baseline": "main"})
    assert code == 1 and "::error title=MISSING" in output["Gate"]
    assert "MISSING" in (room / "summary.md").read_text()
    assert script(GITLAB["bench"])[0] == 1
    assert "PRIVATE-TOKEN: t" in (room / "sent").read_text()
    assert ElementTree.parse(room / report).getroot().get("failures") == "1"


def test_every_gate_of_the_page_names_its_settings():
    """A gate.toml beside bench.toml is not read by itself."""
    gates = [s["with"] for s in EXAMPLES if "gate" in s["uses"]]
    assert [g["gate-config"] for g in gates] == ["gate.toml"]
    (line,) = (line for line in GITLAB["bench"]["script"] if line.startswith("bench gate"))
    assert "--config gate.toml" in line


def test_the_pages_own_settings_are_settings(tmp_path, cli, output, cache):
    for name, text in zip(("bench", "gate"), BLOCKS["toml"], strict=True):
        (tmp_path / f"{name}.toml").write_text(text)
    out = output("plan", "--config", tmp_path / "bench.toml", "--results", tmp_path / "r", "--json")
    methods = {row["method"] for row in json.loads(out)}
    assert methods == {"dense", "magnitude", "wanda", "sparsegpt"}
    fake_records.accuracy(same := tmp_path / "a")
    gate = ("--baseline", same, "--results", same, "--config", tmp_path / "gate.toml")
    assert cli("gate", *gate)[0] == 0


def test_the_projects_own_gate_has_its_settings():
    run = (ROOT / ".ci/run").read_text()
    for name in re.findall(r"--config (\S+)", run):
        assert (ROOT / name).exists()
    (name,) = re.findall(r"--baseline (\S+)", run)
    assert (ROOT / f"results/baselines/{name}.zip").exists()


def test_the_installed_code_is_that_of_the_action_or_of_the_change():
    """A bare name would install another package, because this one is on no index."""
    (install,) = (s["run"] for s in ACTION["runs"]["steps"] if s.get("name") == "Install")
    assert install == 'pip install --quiet "${REQUIREMENT:-$GITHUB_ACTION_PATH/../../..}"'
    assert (ROOT / ".github/actions/gate/../../../pyproject.toml").exists()
    assert "cast-bench @ git+https://" in GITLAB["bench"]["script"][0]
    assert not re.findall(r"pip install (?:--quiet )?cast-bench\b", PAGE)


def test_a_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    code = (ROOT / "bench/__init__.py").read_text()
    assert f'__version__ = "{citation["version"]}"' in code
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
