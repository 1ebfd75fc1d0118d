"""Logs of `llama-perplexity --kl-divergence` as records."""

import json

import pytest

from bench.results.store import ReadOnlyStore

LOG = """0.01.986 I kl_divergence: computing over 655 chunks, n_ctx=512, batch_size=2048, n_seq=4

chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence
   1       7.2178 ±    0.2669       0.00412 ±    0.00118       0.00911 ±    0.00041

====== Perplexity statistics ======
Mean PPL(Q)                   :   8.966302 ±   0.160270
Mean PPL(base)                :   8.453608 ±   0.150165
Cor(ln(PPL(Q)), ln(PPL(base))):  98.10%

====== KL divergence statistics ======
Mean    KLD:   0.097973 ±   0.002198
Maximum KLD:  20.749897
99.9%   KLD:   4.200683
99.0%   KLD:   1.447031
95.0%   KLD:   0.367780
90.0%   KLD:   0.183454
Median  KLD:  -0.000001
 0.1%   KLD:  -0.000001
Minimum KLD:  -0.000134

====== Token probability statistics ======
Mean    Δp: -1.461 ± 0.065 %
99.9%   Δp: 54.835%
Same top p: 85.422 ± 0.223 %
"""
"""As llama.cpp prints it."""
pytestmark = pytest.mark.usefixtures("cache")


def test_a_log_is_a_record_that_names_its_tool(tmp_path, output):
    (tmp_path / "wiki.log").write_text(LOG)
    options = ("--model", "tiny", "--method", "q4_k_m", "--results", tmp_path / "r")
    output("import", tmp_path / "wiki.log", *options)
    (record,) = ReadOnlyStore(tmp_path / "r")
    values = {r.metric: (r.value, r.stderr) for r in record.readings}

    assert record.identity.protocol.engine == "llama-perplexity"
    assert record.identity.protocol.label == "wiki@1 in llama-perplexity"
    assert values == {
        "mean_kld": (0.097973, 0.002198),
        "median_kld": (0.0, None),
        "p90_kld": (0.183454, None),
        "p99_kld": (1.447031, None),
        "p999_kld": (4.200683, None),
        "maximum_kld": (20.749897, None),
        "same_top_p": (pytest.approx(0.85422), pytest.approx(0.00223)),
        "mean_ppl": (8.966302, 0.160270),
    }
    assert record.notes["settings"] == {"chunks": 655, "n_ctx": 512}
    assert json.loads(output("show", record.key, "--results", tmp_path / "r", "--json"))
    output("check", tmp_path / "r")


def test_a_log_that_did_not_finish_is_refused(tmp_path, refused):
    (tmp_path / "wiki.log").write_text(LOG.split("Mean    KLD")[0])
    assert "has no mean KLD" in refused("import", tmp_path / "wiki.log", "--model", "tiny")
    (tmp_path / "wiki.log").write_text("hello")
    assert "is no folder" in refused("import", tmp_path / "wiki.log", "--model", "tiny")
