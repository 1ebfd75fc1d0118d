"""Tell a regression from noise: pairing, estimates, verdicts and baselines."""
