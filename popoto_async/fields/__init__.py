"""What values mean: one file for each kind of field."""
