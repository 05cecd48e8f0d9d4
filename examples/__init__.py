"""Examples to read, and experiments to run."""
