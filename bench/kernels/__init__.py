"""2:4 weights packed, and kernels that multiply with them."""
