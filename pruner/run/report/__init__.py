"""The pages and pictures of runs and comparisons."""
