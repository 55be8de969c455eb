"""Pictures of dispatch and of the time it takes."""
