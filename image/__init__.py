"""Builds the container image of eniway from Debian's packages, the lock file and the tree: no engine, no registry."""
