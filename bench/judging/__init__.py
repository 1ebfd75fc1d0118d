"""Telling a regression from noise: paired statistics, verdicts, baselines, gates and histories."""
