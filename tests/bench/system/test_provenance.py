"""Description of the machine in a record."""

import pytest

from bench.results.record import Record
from bench.system import devices, provenance
from helpers import fake_records

AMD = """processor	: 0
vendor_id	: AuthenticAMD
cpu family	: {family}
model		: {model}
model name	: AMD EPYC
stepping	: 1
flags		: fpu sse4_2 fma avx2 {flags}

processor	: 1
cpu family	: 99
flags		: fpu
"""
GENOA = AMD.format(family=25, model=17, flags="avx512f avx512dq avx512bw avx512vl avx512_bf16")
AVX512 = "avx512f avx512bw avx512dq avx512vl avx2 fma"
ROME = AMD.format(family=23, model=49, flags="")
GRAVITON = """processor	: 0
Features	: fp asimd sve bf16
CPU implementer	: 0x41
CPU part	: 0xd40
CPU revision	: 1
"""


def test_processors_of_one_name_are_told_apart_and_arm_has_none():
    genoa, rome, arm = (provenance.cpu_of_cpuinfo(text) for text in (GENOA, ROME, GRAVITON))
    assert genoa == {"cpu": "AMD EPYC", "cpu_model": "25/17/1", "instruction_set": "avx512_bf16"}
    assert rome == {"cpu": "AMD EPYC", "cpu_model": "23/49/1", "instruction_set": "avx2"}
    assert arm == {"cpu_model": "0x41/0xd40/1", "instruction_set": "sve"}


def test_the_highest_level_that_has_all_its_flags():
    levels = {
        f"amx_tile amx_bf16 amx_int8 avx512_bf16 {AVX512}": "amx",
        f"amx_tile {AVX512}": "avx512",
        "avx512f avx2 fma": "avx2",
        "avx2 sse4_2": "sse4_2",
        "fp asimd": "neon",
    }
    for flags, level in levels.items():
        assert provenance.cpu_of_cpuinfo(f"flags : {flags}")["instruction_set"] == level


def test_the_fields_of_this_machine():
    about = provenance.machine()
    assert about["cpu"]
    assert about["isa"]  # torch is imported here
    assert provenance.processor().startswith(about["cpu"])


@pytest.fixture
def no_limits(monkeypatch):
    for name in provenance.ISA_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_lowered_instruction_set_is_recorded_and_another_hardware(no_limits, monkeypatch):
    before, plain = provenance.machine(), devices.fingerprint("cpu")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert provenance.machine() == before | {"isa_limits": {"ATEN_CPU_CAPABILITY": "avx2"}}
    assert "ATEN_CPU_CAPABILITY=avx2" in devices.fingerprint("cpu") != plain
    fields = fake_records.record().model_dump() | {"provenance": {"machine": provenance.machine()}}
    assert Record(**fields).machine == provenance.machine()


def test_a_model_and_a_level_are_part_of_the_hardware(no_limits, monkeypatch):
    texts = []
    for text in (GENOA, ROME):
        monkeypatch.setattr(provenance, "cpu", lambda text=text: provenance.cpu_of_cpuinfo(text))
        texts.append(devices.fingerprint("cpu"))
    assert texts[0].startswith("AMD EPYC 25/17/1 avx512_bf16, ")
    assert texts[1].startswith("AMD EPYC 23/49/1 avx2, ")


@pytest.mark.parametrize(
    ("capability", "limit"), [("avx2", "AVX2"), ("default", "SSE41"), ("avx512", None), ("", None)]
)
def test_onednn_is_held_to_the_level_of_torch(no_limits, monkeypatch, capability, limit):
    if capability:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert devices.matching_onednn_limit() == ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})


def test_the_kernel_s_way_to_compute_is_part_of_the_hardware(no_limits, monkeypatch):
    monkeypatch.delenv(devices.KERNEL_PATH, raising=False)
    monkeypatch.delenv(devices.EAGER, raising=False)
    plain = devices.fingerprint("cpu")
    monkeypatch.setenv(devices.KERNEL_PATH, "portable")
    assert devices.fingerprint("cpu") == f"{plain}, kernel path portable"


def test_times_are_of_utc_and_cut_off():
    assert provenance.format_time(1e9 + 0.9876) == "2001-09-09T01:46:40Z"
    assert provenance.format_time(1e9 + 0.9876, "milliseconds") == "2001-09-09T01:46:40.987Z"
