"""How fast 2:4 is: a frame that any device shares, the devices, and what is timed on them."""
