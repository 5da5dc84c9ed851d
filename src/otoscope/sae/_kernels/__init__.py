"""A training step for TopK dictionaries on the CPU that touches only what is active.

Compiled code is cached beside the sources. Numba looks only at the file that a cached function stands in:
after editing anything that another file here imports, delete this folder's `__pycache__`.
"""
