"""Shared code of quantizers: grids, and the codec that stores their codes."""
