"""The scheduler machine: which task runs where."""
