"""What the gRPC listener is told, besides where it listens."""

from dataclasses import dataclass, field

from service.codecs.forwarding import HeaderPattern

# Levels of the library, which chooses an algorithm that the client reads; naming one fails those that do not.
COMPRESSION_LEVELS = {"none": 0, "low": 1, "medium": 2, "high": 3}


@dataclass(slots=True, frozen=True)
class GrpcOptions:
    """Limits and wishes.

    Attributes:
        max_message_bytes: that one message may have, after it was decompressed.
        forwarded: headers that become parameters of requests.
        compression_level: of answers; 0 sends them as they are.
        max_in_flight: requests of one stream that are not answered yet; more are not read.
        max_unsent_bytes: answers that one stream's client may leave unread before a decoupled request is ended;
            and what its requests and their answers may take before no more are read.
        max_streams: of `ModelStreamInfer` at once, of all clients; more are refused.
        max_connections: at once; more are closed.
    """

    max_message_bytes: int = 2**31 - 1
    forwarded: HeaderPattern = field(default_factory=lambda: HeaderPattern(""))
    compression_level: int = 0
    max_in_flight: int = 1000
    max_unsent_bytes: int = 2**28
    max_streams: int = 4096
    max_connections: int = 4096
