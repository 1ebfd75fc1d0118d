"""Calibration texts of several kinds, the check that they have no test question of a track, and one
text in eight languages with the measure that compares them."""

ENTRIES = {
    "corpora": {
        "wiki": "bench.parts.sources.prose:WIKI",
        "code": "bench.parts.sources.packages:CODE",
        "technical": "bench.parts.sources.packages:TECHNICAL",
        "languages": "bench.parts.sources.packages:LANGUAGES",
        "chat": "bench.parts.sources.made:CHAT",
        "random": "bench.parts.sources.made:RANDOM",
        "languages-en": "bench.parts.sources.parallel:ENGLISH",
        "languages-de": "bench.parts.sources.parallel:GERMAN",
        "languages-es": "bench.parts.sources.parallel:SPANISH",
        "languages-fr": "bench.parts.sources.parallel:FRENCH",
        "languages-it": "bench.parts.sources.parallel:ITALIAN",
        "languages-ja": "bench.parts.sources.parallel:JAPANESE",
        "languages-pt": "bench.parts.sources.parallel:PORTUGUESE",
        "languages-zh-cn": "bench.parts.sources.parallel:CHINESE",
    },
    "measures": {"text_bits": "bench.parts.sources.text_bits:TextBits"},
    "services": {"shared_text": "bench.parts.sources.shared:count_shared"},
}
