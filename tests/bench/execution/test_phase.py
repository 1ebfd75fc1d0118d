"""What a long command shows without a terminal."""

from bench.execution import phase


def test_lines_are_ten_seconds_and_a_tenth_apart_and_leave_out_what_was_known(monkeypatch):
    now = iter((0, 5, 12, 14, 25, 40, 90))
    monkeypatch.setattr(phase.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(phase, "clock_time", lambda seconds: f"in {seconds:.0f} s")
    said = []
    with phase.phase("measuring", said.append) as progress:
        for done in (20, 27, 30, 31, 34, 40):
            progress.advance(done, 40)
    assert said == [
        "measuring",
        "measuring: 27 of 40, done at in 13 s",
        "measuring: 31 of 40, done at in 16 s",
    ]
