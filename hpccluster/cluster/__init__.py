"""The remote control that users hold."""
