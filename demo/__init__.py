"""The demonstration: a VPC in a box, a real Kubernetes on it, eniway, an application, and every path of it walked."""
