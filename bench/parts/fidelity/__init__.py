"""How far a model is from its original, token by token: the measure `fidelity`, and
`bench fidelity`."""

ENTRIES = {
    "commands": {"fidelity": "bench.parts.fidelity.command:fidelity"},
    "measures": {"fidelity": "bench.parts.fidelity.measure:Fidelity"},
}
