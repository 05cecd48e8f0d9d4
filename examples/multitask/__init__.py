"""Experiments with several tasks in one input: data, training, probes and reports."""
