"""A TCP proxy that can stall, cut and refuse: what a network does between two processes of the loop.

It runs in a thread of its own; its methods return when what they ask for has happened.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
CHUNK = 2**16
WAIT_S = 10.0


class Proxy:
    """Forwards from a port of its own to ``upstream`` (host, port); with ``tls`` it ends TLS on its side."""

    def __init__(self, upstream: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.upstream, self.tls = upstream, tls
        self.accepted = 0
        self.port = 0
        self._open: dict[asyncio.StreamWriter, socket.socket] = {}
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._flowing = asyncio.Event()
        self._server = self._do(self._listen())

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Connections stay, and nothing more goes through them."""
        self._do(self._set_flowing(False))
        try:
            yield
        finally:
            self._do(self._set_flowing(True))

    @contextmanager
    def cut(self) -> Iterator[None]:
        """All connections are reset, and new ones closed at once."""
        self._refusing = True
        self.reset()
        try:
            yield
        finally:
            self._refusing = False

    def reset(self) -> int:
        """Reset all connections; how many there were."""
        return self._do(self._reset())

    def close(self) -> None:
        """End the proxy and its connections."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _listen(self) -> asyncio.Server:
        self._flowing.set()
        server = await asyncio.start_server(self._connect, "127.0.0.1", self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _set_flowing(self, flowing: bool) -> None:
        (self._flowing.set if flowing else self._flowing.clear)()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        own = writer.get_extra_info("socket")
        if self._refusing:
            _reset(writer, own)
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            _reset(writer, own)
            return
        both = {writer: own, upstream_writer: upstream_writer.get_extra_info("socket")}
        self._open |= both
        try:
            await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))
        finally:
            for one in both:
                del self._open[one]
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _reset(self) -> int:
        connections = list(self._open.items())
        for writer, own in connections:
            _reset(writer, own)
        return len(connections) // 2

    async def _end(self) -> None:
        self._server.close()
        await self._reset()
        self._flowing.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter, own: socket.socket) -> None:
    """End a connection with RST, as a vanished peer does, and not with FIN."""
    with suppress(OSError):  # it has ended by itself
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
