"""Recordings to phones with times."""
