"""Runs on several machines: shards of a plan, scripts of Slurm arrays, a Ray cluster."""

NEEDS = ("forecasts",)
ENTRIES = {
    "executors": {"ray": "bench.parts.cluster.ray_executor:RayExecutor"},
    "services": {
        "shard": "bench.parts.cluster.shards:choose_shard",
        "slurm": "bench.parts.cluster.slurm:write_job",
    },
}
