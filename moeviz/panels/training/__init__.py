"""Exhibits that train live."""
