"""The container runtime's door: the relay, the socket it calls, and the CNI verbs."""
