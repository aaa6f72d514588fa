"""What a backend plugin stands on. Knows nothing of tasks."""
