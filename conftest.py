"""No test reaches the network: what is not loopback is refused."""

import ipaddress
import socket

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_network():
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
