"""From a spec to artifacts and measurements with their keys. Loads no model and no torch."""
