from __future__ import annotations

import asyncio
import socket

from common.http_service import listening


def test_answers_are_sent_at_once() -> None:
    async def sent_at_once() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listening("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            told = await found
            writer.close()
            await writer.wait_closed()
        return told

    assert asyncio.run(sent_at_once())
