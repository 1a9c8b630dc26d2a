"""The state of a VPC: instances, cards, addresses, and how they change in time. Knows no HTTP and no kernel."""
