"""Quantizers: methods that run last and return their weights dequantized. They import nothing of
bench."""
