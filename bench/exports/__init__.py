"""Results in the formats of others: Every Eval Ever's, and lm-eval's."""
