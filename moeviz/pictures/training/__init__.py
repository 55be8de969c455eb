"""Pictures of how models learn."""
