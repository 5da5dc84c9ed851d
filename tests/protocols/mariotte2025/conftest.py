from tests.encoders.conftest import tiny

__all__ = ["tiny"]
