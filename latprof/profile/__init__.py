"""Measuring: which networks, in which rounds, until when; and how right the table is."""
