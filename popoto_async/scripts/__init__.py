"""The Lua files, one per operation, and their loader."""
