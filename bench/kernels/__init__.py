"""Packed 2:4 weights, and kernels that multiply by them."""
