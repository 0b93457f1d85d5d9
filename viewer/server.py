"""The viewer's server: one page, one web socket, nothing else, and no path to the file system."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from http import HTTPStatus
from importlib import import_module, resources
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import torch

from .exhibit import Exhibition
from .painter import Painter
from .rate import Bucket, Buckets
from .session import Session

MAX_CLIENTS = 8
MESSAGES = 240.0, 960.0  # A second from a client, and at once: a mouse makes up to 125.
WRONG_TOKENS = 0.2, 10.0  # The same of an address that does not know the token.
MAX_ADDRESSES = 1000  # That are remembered for it.
MAX_MESSAGE = 1 << 20  # Bytes from a client: a path of 3,600 cameras fits.
SCRIPTS = ("camera.js", "path.js", "stage.js", "panel.js", "view.js")
PLAIN = "text/plain; charset=utf-8"
POLICY_VIOLATION = 1008  # A web socket's reason to close.


class Server:
    """Serves one exhibition until it is stopped.

    Args:
        show: what there is to see.
        host: address to listen at. Any but a loopback one needs a token, which is made if none is
            given.
        port: to listen at; 0 takes a free one.
        token: what a browser must show, as ?token= in the address; None asks for none.
        log: takes one line for everything that a client did wrong.
    """

    def __init__(
        self,
        show: Exhibition,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._host, self._port = host, port
        self._local = is_loopback(host)
        self._token = token or (None if self._local else secrets.token_urlsafe(18))
        self._log = log
        self._painter = Painter(show)
        self._clients: set[Any] = set()
        self._wrong = Buckets(*WRONG_TOKENS, MAX_ADDRESSES)
        self._page = page(show.title)
        self._nonce = secrets.token_urlsafe(12)

    @property
    def url(self) -> str:
        """Where the page is; known once the server runs."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        query = "?" + urlencode({"token": self._token}) if self._token else ""
        return f"http://{host}:{self._port}/{query}"

    async def run(self, ready: Callable[[str], None] = lambda url: None) -> None:
        """Serve until cancelled; `ready` is called with the address. Raises ValueError."""
        try:
            import_module("PIL.Image")  # For the pictures.
            from websockets.asyncio.server import serve
        except ImportError as error:
            raise ValueError(f"view needs {error.name}: pip install 'fieldpress[view]'") from None
        self._turn = asyncio.Lock()
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(threads)) as worker:
            self._worker = worker
            try:
                server = await serve(
                    self._client, self._host, self._port, process_request=self._answer,
                    max_size=MAX_MESSAGE, compression=None, server_header=None, close_timeout=2,
                    logger=self._quiet_logger(),
                )  # fmt: skip
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"{self._host}:{self._port}: cannot listen: {reason}") from None
            async with server:
                self._port = next(iter(server.sockets)).getsockname()[1]
                ready(self.url)
                await server.wait_closed()

    # One client

    async def _client(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        self._clients.add(connection)
        session = Session(self._painter, self._worker, self._turn, connection.send, self._log)
        painting, messages = asyncio.ensure_future(session.paint()), Bucket(*MESSAGES)
        try:
            await session.hello()
            async for text in connection:
                if not messages.take():
                    self._log("a client sent too much")
                    await connection.close(POLICY_VIOLATION, "too many messages")
                    break
                await session.take(text)
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(connection)
            painting.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await painting
            if connection.close_code not in (None, 1000, 1001):  # None: the server itself ends.
                self._log(f"a client went away (code {connection.close_code})")

    # HTTP

    def _answer(self, connection: Any, request: Any) -> Any:
        """The page for "/", None to let "/ws" become a web socket, else a refusal."""
        address = urlsplit(request.path)
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            return self._refuse(HTTPStatus.FORBIDDEN, f"host {hosts}")
        if address.path not in ("/", "/ws"):
            return self._refuse(HTTPStatus.NOT_FOUND, f"path {request.path}")
        wrong = self._wrong.of(str((connection.remote_address or ("",))[0]))
        if wrong.empty:  # Whatever it says: else guessing would only be slower.
            return self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens")
        if not self._is_token(address.query):
            wrong.take()
            return self._refuse(HTTPStatus.FORBIDDEN, "no or a wrong token")
        if address.path == "/":
            text = self._page.replace("NONCE", self._nonce).encode()
            return _response(HTTPStatus.OK, text, "text/html; charset=utf-8", self._nonce)
        origins = request.headers.get_all("Origin")
        if any(urlsplit(origin).netloc != hosts[0] for origin in origins):
            return self._refuse(HTTPStatus.FORBIDDEN, f"origin {origins}")
        if len(self._clients) >= MAX_CLIENTS:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"more than {MAX_CLIENTS} clients")
        return None

    def _refuse(self, status: HTTPStatus, why: str) -> Any:
        self._log(f"refused a request: {ascii(why)[1:-1][:200]}")
        return _response(status, f"{status.value} {status.phrase}\n".encode(), PLAIN)

    def _is_host(self, host: str) -> bool:
        """On a loopback address only its own names will do: others come by DNS rebinding."""
        if not self._local:
            return True
        with contextlib.suppress(ValueError):
            return is_loopback(urlsplit(f"//{host}").hostname or "")
        return False

    def _is_token(self, query: str) -> bool:
        if self._token is None:
            return True
        given = parse_qs(query).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _quiet_logger(self) -> logging.Logger:
        """What websockets itself has to say of broken clients, a line each instead of a stack."""
        logger = logging.Logger("fieldpress.viewer", logging.ERROR)

        logger.addHandler(_Line(self._log))
        return logger


class _Line(logging.Handler):
    """Hands every record on as one line."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()}{f': {reason}' if reason else ''}"
        self._log(ascii(" ".join(text.split()))[1:-1][:200])


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def page(title: str) -> str:
    """The whole page in one text: style and scripts are inside it, NONCE is to be replaced."""
    folder = resources.files(__package__ or "") / "page"
    text = (folder / "view.html").read_text("utf-8")
    scripts = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    text = text.replace("/*STYLE*/", (folder / "view.css").read_text("utf-8"))
    return text.replace("TITLE", escape(title)).replace("/*SCRIPT*/", scripts)


def _response(status: HTTPStatus, body: bytes, kind: str, nonce: str = "") -> Any:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    policy = "default-src 'none'"
    if nonce:
        policy += (
            f"; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
            "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
    headers = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Response(status.value, status.phrase, Headers(headers), body)
