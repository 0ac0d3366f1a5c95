"""The server: loopback only, until it is interrupted."""

import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from camseg.base.errors import InputError
from camseg.base.progress import Say, unheard
from camseg.refinement.refine import warm_up
from camseg.review.server.app import make_app
from camseg.review.server.desk import Desk
from camseg.review.server.guard import Doors
from camseg.review.settings import ReviewSettings

HOST = "127.0.0.1"
"""The only address that the server listens at."""


def review_folder(
    folder: Path | str,
    settings: ReviewSettings | None = None,
    *,
    images: Path | str | None = None,
    say: Say = unheard,
) -> dict[str, Any]:
    """Serve the page for an output folder of ``label``, ``segment`` or ``refine`` until it is interrupted.

    images: the folder or CSV of the images, default as ``run.json`` says. Each reviewer's one-time address is said.
    Returns how many masks were decided on, and the time that it took, as JSON values.
    Raises InputError where there are no masks, or the port is taken; OutputError for damaged files.
    """
    settings = settings or ReviewSettings()
    desk = Desk(folder, settings, images)
    listening = _listen(settings.port)
    port = listening.getsockname()[1]
    doors = Doors(port=port)
    for remark in desk.remarks:
        say(f"note: {remark}")
    addresses = [f"http://{HOST}:{port}{doors.invite(n + 1)}" for n in range(settings.reviewers)]
    for n, address in enumerate(addresses):
        whose = f" (reviewer {n + 1})" if settings.reviewers > 1 else ""
        say(f"open once, in one browser{whose}: {address}")
    say("Ctrl-C ends it; what was decided is kept")
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(desk, doors), log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
    )
    # What the first re-solved outline needs is compiled while the first mask is looked at.
    threading.Thread(target=warm_up, args=("closed-form",), daemon=True).start()
    if settings.browser and settings.reviewers == 1:
        threading.Timer(0.3, webbrowser.open, addresses[:1]).start()
    with suppress(KeyboardInterrupt):  # which is how it ends
        server.run(sockets=[listening])
    return desk.summary()


def _listen(port: int) -> socket.socket:
    """A socket at a port of this machine alone."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()  # from now on: who opens the address before the server runs waits, and is not refused
    except OSError as error:
        made.close()
        raise InputError(f"port {port} cannot be listened at ({error.strerror}); choose another --port") from None
    return made
