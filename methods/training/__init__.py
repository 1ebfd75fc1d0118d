"""What methods that train share: the trainer, settings, distillation, checkpoints, ranks."""
