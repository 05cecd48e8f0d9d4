"""Settings that tests and doctests share: one torch thread, reproducible hypothesis, and names that examples use."""

import pytest
import torch
from hypothesis import settings

import viewaug

torch.set_num_threads(1)
settings.register_profile("viewaug", deadline=None, derandomize=True)
settings.load_profile("viewaug")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(torch=torch, viewaug=viewaug)
