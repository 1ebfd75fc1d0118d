"""Experiment trackers of a run: MLflow, Weights & Biases. Each runs in a separate process."""

ENTRIES = {
    "trackers": {
        "mlflow": "bench.parts.trackers.mlflow_runs:MlflowRuns",
        "wandb": "bench.parts.trackers.wandb_runs:WandbRuns",
    },
    "services": {"trackers": "bench.parts.trackers.tracking:Tracking"},
}
