"""Quantizers: methods that run last, and give each weight with the codec that stores it. They
import nothing else of bench."""
