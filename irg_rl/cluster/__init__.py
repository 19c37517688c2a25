"""Ray plumbing, once: starting it, waiting for it, restartable actors, ranks that act together, and the slot buffer."""
