"""Methods, quantizers and measures by name."""
