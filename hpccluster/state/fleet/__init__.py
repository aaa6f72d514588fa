"""The fleet machine: which jobs to submit, cancel and retire."""
