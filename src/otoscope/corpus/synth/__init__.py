"""A source-filter singer with known factors."""
