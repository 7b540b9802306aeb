"""Each claim of the README has its script here, and its saved result in results/."""
