"""A table: the rows of one device, and the folder that keeps them."""
