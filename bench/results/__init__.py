"""Records: read, write, check, merge, and turn into rows."""
