"""Adapters that put viewaug into other frameworks; one module each."""
