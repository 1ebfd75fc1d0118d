"""`bench export`, dense and stored weights, and results for other tools."""

ENTRIES = {
    "commands": {"export": "bench.parts.exports.command:export"},
    "exports": {
        "hf": "bench.parts.exports.formats:Dense",
        "stored": "bench.parts.exports.formats:Stored",
        "eee": "bench.parts.exports.formats:EveryEvalEver",
    },
}
