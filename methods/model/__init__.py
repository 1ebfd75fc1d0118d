"""A model as files and modules: families, targets, experts, folders, adapters, and what is left of
a smaller one."""
