"""From values and conditions to operations."""
