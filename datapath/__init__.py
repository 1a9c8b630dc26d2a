"""The kernel: what pods need there, planned purely, compared with what is there, and applied over netlink."""
