"""Tables on the move: pushed, pulled, merged, summed up for people."""
