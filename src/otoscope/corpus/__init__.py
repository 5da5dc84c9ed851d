"""Clips of sound: loaders, decoding, group-safe splits, and a singer made of mathematics."""
