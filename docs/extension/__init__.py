"""Additions to Sphinx: equations without scripts, and a copied page."""
