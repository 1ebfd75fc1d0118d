"""What quantizers share: grids, and how weights would be stored."""
