"""Models from other tools: read their formats, name their pattern, and list how they differ from
their original. Also the storage of quantized weights."""
