"""Programs that show runs: MLflow, Weights & Biases. Each is told what happens by a process of its own."""
