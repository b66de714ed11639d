"""``flowmaps demo [RUN ...]``"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from jsonargparse import ArgumentParser

from ..configuration.parsing import parse, parser
from .boundary import explain, report

HELP = """Show the models of the package, and any runs, on a web page of this machine: molecules, images, text and more,
drawn in one or a few network evaluations. Nothing is sent anywhere."""


PATIENCE = 3.0  # seconds for requests that are being answered when Ctrl-C is pressed


def _parser() -> ArgumentParser:
    p = parser("demo", HELP)
    p.add_argument("runs", type=str, nargs="*", default=[], help="folders of runs, or checkpoints, to show as well")
    p.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at; 0.0.0.0 serves the network")
    p.add_argument("--port", type=int | None, help="port; 0 takes a free one (default: the first from 7860)")
    p.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return p


def run(arguments: Sequence[str]) -> int:
    cfg = parse(_parser(), arguments)
    port = chosen_port(cfg.host, cfg.port)
    bypass_proxies(cfg.host)
    from ..page.shelf import places

    shown = places(cfg.runs)
    from ..page.app import build, serve

    page = build(shown, lambda error: told(error, arguments))
    address = serve(page, cfg.host, port, not cfg.no_browser)
    names = ", ".join(tab.name for place in shown for tab in place.tabs)
    print(f"{names} at {address} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        while True:  # a wait without end may sleep through a signal that another thread got
            time.sleep(0.5)
    closing = threading.Thread(target=page.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    sys.stdout.flush()
    os._exit(
        0
    )  # connections that browsers hold open keep threads of the server alive, which an ordinary exit waits for


def told(error: Exception, arguments: Sequence[str]) -> str:
    """What the page says of an exception: the mistake, or that it is one of this package, with its file on standard
    error alone."""
    if text := explain(error):
        return text
    print(f"flowmaps demo: {report(error, list(arguments))}", file=sys.stderr)
    return "This is a fault of flowmaps and not of your request; the machine that serves this page has kept a report."


def chosen_port(host: str, port: int | None) -> int | None:
    """A port that is free at this moment, if one is named; 0 takes any.

    Raises: ValueError if the port or the host cannot be used.
    """
    if port is not None and not 0 <= port < 2**16:
        raise ValueError(f"port is {port}, expected 0 to 65535; 0 takes a free one")
    try:
        with socket.create_server((host, port or 0)) as server:
            return None if port is None else server.getsockname()[1]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen at {host}:{port or ''} ({reason}); choose another --port or --host") from None


def bypass_proxies(host: str) -> None:
    """Talk to this machine directly, whatever proxies are set."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", host]))
