"""Runs on a Ray cluster, and scripts of Slurm arrays."""

NEEDS = ("forecasts",)
ENTRIES = {
    "executors": {"ray": "bench.parts.cluster.ray_executor:RayExecutor"},
    "services": {"slurm": "bench.parts.cluster.slurm:write_job"},
}
