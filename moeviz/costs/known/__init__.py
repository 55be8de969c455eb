"""Published models and devices, with their sources."""
