"""Pictures of what experts are for."""
