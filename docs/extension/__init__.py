"""What this site adds to Sphinx: equations without scripts, and pages from the catalog, the program and docstrings."""
