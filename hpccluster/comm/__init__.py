"""Bytes, then messages, between processes; and who may join."""
