"""How a call with one answer is refused."""

import grpc

from enginehouse.errors import Error
from service.status import status_of


def refuse(context: grpc.aio.ServicerContext, problem: Error) -> bytes:
    """Give a unary call the status of a problem. Its handler returns what this returns, which is not sent.

    `abort` would do it by an exception, which gRPC keeps with all that the call brought, until the collector comes.
    """
    context.set_code(status_of(problem).grpc)
    context.set_details(str(problem))
    # Its frames lead back to it.
    problem.__traceback__ = None
    return b""
