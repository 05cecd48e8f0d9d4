"""Commands of ``viewaug`` that look at a checkpoint."""
