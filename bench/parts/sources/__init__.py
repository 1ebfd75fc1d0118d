"""Calibration texts of several kinds, and the check that they have no test question of a track."""

ENTRIES = {
    "corpora": {
        "wiki": "bench.parts.sources.prose:WIKI",
        "code": "bench.parts.sources.packages:CODE",
        "technical": "bench.parts.sources.packages:TECHNICAL",
        "languages": "bench.parts.sources.packages:LANGUAGES",
        "chat": "bench.parts.sources.made:CHAT",
        "random": "bench.parts.sources.made:RANDOM",
    },
    "services": {"shared_text": "bench.parts.sources.shared:count_shared"},
}
