"""The contract every method signs, and what methods share."""
