"""The demo: 28,298 airports, what can be asked of them, and what each question costs."""
