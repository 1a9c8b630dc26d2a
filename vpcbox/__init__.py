"""A VPC in a box: the cloud's API and metadata, the wire between instances, and a real Kubernetes on them."""
