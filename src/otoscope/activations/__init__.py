"""What layers hold while they listen: the store and its extraction."""
