"""Settings that tests and doctests share: one thread, reproducible hypothesis, names that examples use, no network."""

import ipaddress
import socket

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


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Refuse connections to other machines."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise RuntimeError(f"A test tried to connect to {host}.")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
