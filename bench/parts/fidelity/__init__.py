"""How far a model is from its original, token by token: the measures `fidelity`, `floor`,
`own_answers` and `written`, and `bench fidelity`."""

ENTRIES = {
    "commands": {"fidelity": "bench.parts.fidelity.command:fidelity"},
    "measures": {
        "fidelity": "bench.parts.fidelity.measure:Fidelity",
        "floor": "bench.parts.fidelity.floor:Floor",
        "own_answers": "bench.parts.fidelity.own_answers:OwnAnswers",
        "written": "bench.parts.fidelity.written:Written",
    },
    "services": {"fidelity_in_reports": "bench.parts.fidelity.in_reports:IN_REPORTS"},
}
