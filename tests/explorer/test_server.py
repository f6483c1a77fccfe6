"""Who is answered: this machine's browser, from pages of the same server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from overdepth.explorer.server import OWN_SOURCES, OwnPagesOnly, address, bound, is_own


def headers(**given: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in given.items()]


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"host": "127.0.0.1:2718"}, True),
        ({"host": "localhost:2718"}, True),
        ({"host": "[::1"}, False),
        ({"host": "127.0.0.1:x"}, False),
        ({"host": "127.0.0.1:2718", "origin": "http://127.0.0.1:2718"}, True),
        ({"host": "127.0.0.1:2718", "origin": "http://127.0.0.1:8000"}, False),
        ({"host": "127.0.0.1:2718", "origin": "https://elsewhere.example"}, False),
        ({"host": "127.0.0.1:2718", "origin": "null"}, False),
        ({"host": "elsewhere.example:2718"}, False),
        ({"host": "127.0.0.1.elsewhere.example"}, False),
        ({}, False),
    ],
)
def test_own_requests(given: dict[str, str], own: bool) -> None:
    assert is_own(headers(**given)) is own


async def answered(kind: str, given: dict[str, str]) -> list[dict[str, Any]]:
    """What is sent for a request to an application that says ``inside``."""
    sent: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await OwnPagesOnly(inside)({"type": kind, "headers": headers(**given)}, receive, send)
    return sent


def test_others_are_refused_and_ours_may_load_nothing_from_elsewhere() -> None:
    ours, others = {"host": "127.0.0.1:1"}, {"host": "elsewhere.example"}
    (answer,) = asyncio.run(answered("http", ours))
    assert answer["status"] == 200
    assert answer["headers"] == [(b"content-security-policy", OWN_SOURCES.format(host="127.0.0.1:1").encode())]
    assert asyncio.run(answered("http", others))[0]["status"] == 403
    assert asyncio.run(answered("websocket", others)) == [{"type": "websocket.close", "code": 1008}]


def test_it_listens_on_this_machine_alone() -> None:
    with bound(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        listener.listen()
        with pytest.raises(ValueError, match=rf"--port {port} cannot be used \(.*\); leave it out for a free one"):
            bound(port)


def test_an_address_can_hold_any_path() -> None:
    assert address(5, {"sweep": "/a b/c&d"}) == "http://127.0.0.1:5/?sweep=%2Fa+b%2Fc%26d"


def test_the_socket_is_closed_when_the_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="cannot be used"):
            bound(taken.getsockname()[1])
