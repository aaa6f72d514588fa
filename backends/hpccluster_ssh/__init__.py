"""SSH: runs commands on other hosts, and clusters on hosts without a batch system."""
