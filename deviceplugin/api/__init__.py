"""Kubernetes' own .proto files, trimmed; their Python modules are made at build time."""
