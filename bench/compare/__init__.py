"""Tell a regression from noise: pairing, estimates, verdicts, baselines, history."""
