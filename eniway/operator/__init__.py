"""The operator: what one process does for the whole cluster."""
