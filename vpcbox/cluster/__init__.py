"""A real Kubernetes on the instances of a box."""
