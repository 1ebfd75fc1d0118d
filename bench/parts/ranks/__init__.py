"""Several processes for one stage, on one machine or on several."""

ENTRIES = {
    "services": {
        "ranks": "bench.parts.ranks.ranks:start_ranks",
        "nodes": "bench.parts.ranks.place:place",
    }
}
