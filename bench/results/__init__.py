"""Records: read, write, merge, migrate, and turn into rows."""
