"""Time 2:4 against dense, on any device."""
