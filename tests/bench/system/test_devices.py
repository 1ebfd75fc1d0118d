"""Cards, by stand-ins for the calls of torch that reach one."""

from pathlib import Path

import pytest
import torch

from bench.cli import doctor
from bench.system import devices
from helpers import fake_smi
from methods.contract.errors import UserError


@pytest.mark.parametrize(("device", "number"), [("cuda", [0]), ("cuda:2", [2]), ("cpu", [])])
def test_a_card_without_a_number_is_the_first(device, number, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    devices.select_card(device)
    assert chosen == number


@pytest.fixture
def old_driver(monkeypatch, tmp_path):
    """old_driver(version, cuda) makes a machine whose driver counts a card that torch cannot
    start."""

    def make(version, cuda="13.0"):
        real = Path.exists
        monkeypatch.setattr(Path, "exists", lambda p: str(p) == "/dev/nvidia0" or real(p))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        fake_smi.install(monkeypatch, tmp_path, *([f"GPU-1, {version}"] if version else []))

    return make


@pytest.mark.parametrize(
    ("version", "cuda", "way"),
    [
        ("570.86.10", "13.0", "pip install torch --index-url {}/cu128"),
        ("535.161.08", "13.0", "pip install torch --index-url {}/cu126"),
        ("470.57.02", "12.6", "update the driver to 525 or newer"),
        ("", "13.0", "pip install torch --index-url {}/cu126"),
        ("580.65.06", "13.0", 'python -c "import torch; torch.cuda.init()" prints why'),
    ],
)
def test_a_fault_names_the_driver_and_the_wheels_that_fit(version, cuda, way, old_driver):
    old_driver(version, cuda)
    assert devices.resolve_device("auto") == "cpu"
    fault = devices.driver_fault()
    assert f"the NVIDIA driver {version}".strip() in fault
    assert fault.endswith(way.format(devices.WHEELS))
    assert doctor._device()["detail"].endswith(fault)
    with pytest.raises(UserError, match="'cuda' cannot be used: the NVIDIA driver"):
        devices.resolve_device("cuda")


@pytest.mark.parametrize("command", [pytest.param("run", marks=pytest.mark.slow), "plan"])
def test_a_run_and_a_plan_say_why_they_are_on_the_cpu(command, old_driver, cli, tmp_path):
    old_driver("535.161.08")
    words = ["--model", "tiny", "--methods", "magnitude", "--measures", "pattern"]
    code, _, err = cli(command, *words, "--results", tmp_path / "results")
    (sentence,) = [line for line in err.splitlines() if "535.161.08" in line]
    assert (
        code == 0 and "the device is the CPU: the NVIDIA driver 535.161.08 is too old" in sentence
    )
    assert sentence.endswith(f"{devices.WHEELS}/cu126")
