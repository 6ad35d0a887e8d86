"""A report on a detector: what it learned, where it fails, and which of its boxes can be trusted."""
