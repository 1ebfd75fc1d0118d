"""Trackers: MLflow, Weights & Biases. Each runs in a separate process."""
