"""The shells round the scheduler and worker machines, nannies and clients."""
