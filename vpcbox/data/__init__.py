"""Data the box is made from."""
