"""Engines of this project, to be timed beside each other. None imports its package before it is
asked for."""
