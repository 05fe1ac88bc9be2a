"""How the server's log lines look."""

import logging


def configure_logging(level: str) -> None:
    """One line an event, on standard error; called once, by the program."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # One line per request says nothing that the metrics do not say better.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # Its warnings are about what clients send, which is not for this log to be filled with.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
