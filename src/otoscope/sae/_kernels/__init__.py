"""A training step for TopK dictionaries on the CPU that touches only what is active.

Compiled code is cached beside the sources, by the file of each function alone: after an edit, delete the caches
(`find src -name "*.nb[ic]" -delete`).
"""
