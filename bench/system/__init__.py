"""The machine: cache, files, devices, environments, digests, provenance."""
