"""This machine: which device it is, what else it does, and on which core to measure."""
