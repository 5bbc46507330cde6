"""A model taught to tell its better from its worse self, and how well it does."""
