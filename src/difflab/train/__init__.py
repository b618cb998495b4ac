"""Training: recipes, the loop, checkpoints that resume exactly."""
