"""Changes of a model's weights that keep its function: where they act, and what they are."""
