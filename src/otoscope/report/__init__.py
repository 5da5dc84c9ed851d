"""Charts, tables and one self-contained page; computes nothing, reads results."""
