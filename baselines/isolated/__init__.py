"""Scripts that run in environments of other libraries. They cannot import this project."""
