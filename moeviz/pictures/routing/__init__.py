"""Pictures of who goes where."""
