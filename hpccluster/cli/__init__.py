"""The hpccluster command."""
