"""Reproductions of published studies, end to end."""
