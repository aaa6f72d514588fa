"""What runs tasks on the workers."""
