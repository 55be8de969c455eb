"""What test modules share: in pytest's importlib mode they cannot import one another."""
