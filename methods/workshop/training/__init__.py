"""Shared code of methods that train: the trainer, losses, settings, checkpoints, ranks."""
