"""The API server's room: one thin client, and what the node daemon writes with it (its NodeNetwork, Events)."""
