"""The metadata service an instance finds at 100.100.100.200."""
