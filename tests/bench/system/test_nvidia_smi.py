"""State of cards, read from what nvidia-smi printed. The program is a script that is really run."""

from types import SimpleNamespace

import pytest
import torch

from bench.system import nvidia_smi
from helpers import fake_smi


@pytest.fixture
def card(monkeypatch):
    """card(uuid) makes it the id of torch's card."""

    def make(row):
        about = SimpleNamespace(uuid=row.split(",")[0].removeprefix("GPU-"))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)

    return make


def test_a_card_is_found_by_its_id_and_absent_fields_stay_absent(card, monkeypatch, tmp_path):
    fake_smi.install(monkeypatch, tmp_path, fake_smi.H100, fake_smi.RTX4090)
    card(fake_smi.RTX4090)
    assert nvidia_smi.describe("cuda:0") == {
        "driver": "550.54.15",
        "power_limit": "450.00 W",
        "sm_clock": "210 MHz",
        "memory_clock": "405 MHz",
        "temperature_c": "41",
        "memory_used": "1 MiB",
    }
    card(fake_smi.H100)
    own = nvidia_smi.describe("cuda:0")
    assert own["ecc"] == "Enabled" and own["mig"] == "Disabled"
    assert set(own) == set(nvidia_smi.FIELDS) - {"uuid"}
    assert nvidia_smi.driver_version() == "550.54.15"


def test_a_part_of_the_only_card_is_that_card(card, monkeypatch, tmp_path):
    card("MIG-1")
    fake_smi.install(monkeypatch, tmp_path, fake_smi.H100, fake_smi.RTX4090)
    assert nvidia_smi.describe("cuda") == {}
    fake_smi.install(monkeypatch, tmp_path, fake_smi.H100)
    assert nvidia_smi.describe("cuda")["power_limit"] == "700.00 W"


def test_no_program_and_a_failing_one_are_no_error(card, monkeypatch, tmp_path):
    card(fake_smi.H100)
    fake_smi.install(
        monkeypatch, tmp_path, 'Field "mig.mode.current" is not a valid field', status=2
    )
    assert nvidia_smi.describe("cuda") == {} and nvidia_smi.driver_version() == ""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert nvidia_smi.query() == [] and nvidia_smi.driver_version() == ""
    assert nvidia_smi.describe("cpu") == {}
