"""What the kernel should hold, from leases and cards. Pure."""
