"""Device plugin API."""
