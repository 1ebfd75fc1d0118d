"""Scripts that run in other libraries' environments, where nothing of this project can be imported."""
