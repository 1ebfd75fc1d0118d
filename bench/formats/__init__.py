"""Models made elsewhere: read their formats, name their pattern, and list how they differ from
their original."""
