"""The rows of a column are compared together as each pair alone."""

from bench.comparing import known_variance, result_arguments
from bench.reporting import pairwise
from helpers import fake_records


def test_what_rows_share_changes_no_interval(tmp_path, monkeypatch):
    for seed in (0, 1):
        for noise, method in enumerate(("dense", "wanda", "magnitude", "sparsegpt")):
            about = {"method": method, "seed": seed}
            fake_records.perplexity(tmp_path, noise / 10, noise=1 + noise + 9 * seed, **about)
            fake_records.accuracy(tmp_path, lost=5 * noise, n=50, **about)
            fake_records.bits(tmp_path, 8.0 + noise, **about)
    results = result_arguments.read(tmp_path).with_cache()
    known = known_variance.learn(results)
    found = {}
    for is_alone in (False, True):
        if is_alone:
            monkeypatch.setattr(pairwise, "kind_of", lambda *_: None)
        comparer = pairwise.PairComparer(results, known)
        for metric in ("perplexity", "acc", "bits_per_weight"):
            rows = {}
            for record in results.records:
                if metric in {reading.metric for reading in record.readings}:
                    rows.setdefault(record.identity.method, {})[record.identity.seed] = record
            answer = comparer._compute(dict(enumerate(rows.values())), metric, 0.05)
            assert len(list(filter(None, answer["pairs"]))) == 6, metric
            assert found.setdefault(metric, answer) == answer
