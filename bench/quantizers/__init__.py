"""Quantizers: methods that run last, and hand back their weights dequantized. They import `methods` and no more of bench."""
