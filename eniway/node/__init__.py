"""Composition root of the node daemon: builds the rooms and runs them, nothing else."""
