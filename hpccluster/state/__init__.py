"""The three pure machines: scheduler, worker, fleet. No I/O, no clock, no randomness."""
