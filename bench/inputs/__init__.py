"""Models, tokenizers, text and tasks: from the hub, a mirror, the package index or this package."""
