"""Write pruned models and results for other tools."""
