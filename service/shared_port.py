"""A port that several servers of one machine have at once; the kernel spreads connections over those who listen."""

import socket

from enginehouse.errors import NotReady


def claim_port(address: str, port: int, protocol: str) -> socket.socket:
    """Take a part of a port, which nobody is connected to before it is listened to; 0 takes a free one.

    Raises:
        NotReady: another server has it for itself, or it is not allowed.
    """
    claim = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        claim.bind((address, port))
    except OSError as problem:
        claim.close()
        raise NotReady(
            f"cannot share {address}:{port} for {protocol}: {problem.strerror or problem}. "
            f"Start all servers of that port with --reuse-{protocol.lower()}-port true, as the same user."
        ) from problem
    return claim
