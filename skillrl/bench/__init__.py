"""Measurements of the parts of a run; each prints a table and, as its last line, one JSON object."""
