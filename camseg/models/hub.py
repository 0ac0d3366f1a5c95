"""Pretrained weights from the Hugging Face hub; where it cannot be reached its cache alone, at once and quietly."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

WAIT: Final = 5.0
"""Seconds that a first connection may take."""
_LOGGERS: Final = ("huggingface_hub", "timm.models._builder", "timm.models._hub")


@contextmanager
def hub() -> Iterator[bool]:
    """While it lasts, downloads from the hub fail at once where it cannot be reached, and log nothing but errors.

    Gives whether it can be reached. The library by itself tries each file six times, and tells of every one of them.
    """
    from huggingface_hub import constants  # here: most networks are built without it

    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
    offline = constants.HF_HUB_OFFLINE
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        constants.HF_HUB_OFFLINE = offline or not _answers(*_first_place(constants.ENDPOINT))
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in loggers.items():
            logger.setLevel(level)


def _first_place(endpoint: str) -> tuple[str, int]:
    """Host and port that requests to the endpoint go to first: a proxy's, where the system names one."""
    target = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    place = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else target
    return place.hostname or "", place.port or (80 if place.scheme == "http" else 443)


def _answers(host: str, port: int) -> bool:
    """Whether a connection can be had within ``WAIT``, the look-up of the name included, which knows no limit."""
    found: list[bool] = []

    def connect() -> None:
        try:
            with closing(socket.create_connection((host, port), timeout=WAIT)):
                found.append(True)
        except OSError:
            found.append(False)

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(WAIT)
    return found == [True]
