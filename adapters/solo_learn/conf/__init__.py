"""Configurations for solo-learn, for Hydra to find as ``pkg://viewaug.adapters.solo_learn.conf``."""
