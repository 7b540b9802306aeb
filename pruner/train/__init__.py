"""Training: what a task asks of it, the loop, and the files that leave it."""
