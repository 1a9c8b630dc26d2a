"""The wire of the VPC: one router namespace that delivers by address, and a port of it for each card."""
