"""A model's graph: traced into a network, cut to an architecture, refitted to what is left."""
