"""Layered YAML, checked against the options' own types. The only place that imports yaml."""
