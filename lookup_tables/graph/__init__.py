"""A graph's operations → fused layers, coupled channels and removable blocks."""
