"""Exhibits of what experts are for."""
