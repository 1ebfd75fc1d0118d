"""Statistics on numpy and scipy alone: bootstrap, exact tests, multiple tests, power, change
points."""
