"""Pictures of what a model costs."""
