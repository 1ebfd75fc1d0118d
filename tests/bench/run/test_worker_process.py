"""What a record of a worker's death keeps of its log."""

from bench.run import worker_process


def test_the_end_of_a_long_log(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "LOG_BYTES", 8)
    (tmp_path / "log").write_text("a long start\nthe end\n")

    assert worker_process.read_end(tmp_path / "log") == "the end\n"


def test_a_short_log_is_whole(tmp_path):
    (tmp_path / "log").write_bytes(b"caf\xff\n")

    assert worker_process.read_end(tmp_path / "log") == "caf\N{REPLACEMENT CHARACTER}\n"
