"""The relay that the runtime starts: in C, and the same in Python as its specification."""
