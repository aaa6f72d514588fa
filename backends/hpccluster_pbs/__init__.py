"""The PBS backend."""
