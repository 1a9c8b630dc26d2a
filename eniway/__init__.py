"""The floor every room stands on: words, names, units, errors, configuration. Pure; imports nothing above it."""
