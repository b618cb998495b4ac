"""Models: what a checkpoint is, how to read it, how to build it."""
