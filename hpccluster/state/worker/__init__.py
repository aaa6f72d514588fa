"""The worker machine: which task runs when, and what must be fetched first."""
