"""A double of what the adapter relies on in solo-learn; tests/test_real_solo_learn.py runs the real one."""
