"""`bench card`: a README.md for a written model, with the hub's metadata and a receipt."""

ENTRIES = {
    "commands": {"card": "bench.parts.card.command:card"},
    "services": {"model_card": "bench.parts.card.writer:prepare"},
}
NEEDS = ("exports", "fidelity", "submission")
