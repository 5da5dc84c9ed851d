from tests.support.fixtures import tiny

__all__ = ["tiny"]
