"""Read a number off a model: one file a measure."""
