"""Shared code of methods that train: the trainer, settings, distillation, checkpoints, ranks."""
