"""Numbers from arrays: no audio, no files."""
