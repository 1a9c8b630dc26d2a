"""The API server's room: one thin client, and what the node daemon does with it (NodeNetwork, Events, podCIDR)."""
