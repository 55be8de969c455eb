"""Looks inside a model and copies what it sees into records."""
