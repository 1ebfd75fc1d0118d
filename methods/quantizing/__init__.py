"""Shared code of quantizers: grids, and the note on storage."""
