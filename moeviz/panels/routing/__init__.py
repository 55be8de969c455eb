"""Exhibits of who goes where."""
