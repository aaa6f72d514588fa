"""The process that holds scheduler and fleet of one cluster."""
