"""What is read off a model, one file a measure."""
