"""The shell round the fleet machine: polls, logs, diagnosis."""
