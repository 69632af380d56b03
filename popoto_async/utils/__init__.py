"""Paths that users of popoto know."""
