"""Build artifacts, measure them, and record every measurement."""
