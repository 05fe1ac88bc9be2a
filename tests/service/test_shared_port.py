"""A port that several servers have takes connections only where somebody listens."""

import socket

import pytest

from enginehouse.errors import NotReady
from service.shared_port import claim_port


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_several_have_one_port_and_those_who_listen_get_the_connections(address: str) -> None:
    with claim_port(address, 0, "HTTP") as listening:
        port = listening.getsockname()[1]
        with claim_port(address, port, "HTTP") as silent:
            assert silent.getsockname()[1] == port
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port))
            listening.listen(100)
            for _ in range(30):
                socket.create_connection((address, port)).close()
                accepted, _ = listening.accept()
                accepted.close()


def test_a_port_that_is_not_shared_is_refused_with_the_way_to_share_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as alone:
        port = alone.getsockname()[1]
        with pytest.raises(NotReady, match=rf"cannot share 127\.0\.0\.1:{port} for gRPC: .*--reuse-grpc-port true"):
            claim_port("127.0.0.1", port, "gRPC")
