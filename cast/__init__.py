"""CAST: continuous and differentiable 2:4 sparsity-aware training (arXiv 2509.25996)."""
