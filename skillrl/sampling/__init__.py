"""Sampling turns of many episodes at once from one policy."""
