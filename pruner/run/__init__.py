"""Runs: a model, a table and a budget in; a folder with a smaller network and its report out."""
