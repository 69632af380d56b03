"""A proxy between a client and a server that breaks the connection where a test says.

```python
async with FaultProxy(server) as proxy:  # or a path, or (host, port)
    client = Redis.from_url(proxy.url)
    fault = proxy.swallow_reply(command="EVALSHA")  # the next EVALSHA is applied; its reply never comes
    ...
    await fault.happened()
```

A fault is armed for the k-th request from now on, of one command or of any, over all connections. The proxy splits
both directions into whole requests and replies, so "after N bytes" means N bytes of exactly that request or reply.
Requests are matched to replies by order; pushes belong to none (so subscriptions are not for this proxy).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from tests.servers import Server

BROKEN = (ConnectionError, OSError, asyncio.IncompleteReadError)


class Frames:
    """Cuts a stream of RESP2 or RESP3 into whole requests or replies, as the bytes they came in."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.position = 0
        self.missing = 1  # elements still to read before the frame is whole

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes."""
        self.buffer += data
        frames = []
        while self._element():
            if self.missing == 0:
                frames.append(bytes(self.buffer[: self.position]))
                del self.buffer[: self.position]
                self.position, self.missing = 0, 1
        return frames

    def _element(self) -> bool:
        end = self.buffer.find(b"\r\n", self.position)
        if end < 0:
            return False
        kind, size = self.buffer[self.position : self.position + 1], self.buffer[self.position + 1 : end]
        after = end + 2
        if kind in b"$=!" and int(size) >= 0:
            after += int(size) + 2
            if after > len(self.buffer):
                return False
        self.position = after
        self.missing -= 1
        if kind in b"*~>":
            self.missing += max(int(size), 0)
        elif kind == b"%":
            self.missing += 2 * int(size)
        elif kind == b"|":  # attributes stand before the element they describe
            self.missing += 2 * int(size) + 1
        return True


def command_of(request: bytes) -> str:
    """The command's name in a request, in capitals."""
    return request.split(b"\r\n", 3)[2].decode().upper()


@dataclass(eq=False)
class Fault:
    """One thing that goes wrong once."""

    what: str
    command: str | None
    countdown: int
    amount: float = 0
    request: bytes = b""
    reply: bytes | None = None
    link: Link | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def meets(self, command: str) -> bool:
        """Whether it strikes at this request; counts down."""
        if self.command not in (None, command):
            return False
        self.countdown -= 1
        return self.countdown == 0

    async def happened(self) -> None:
        """Wait until it has struck: cut, swallowed, delayed, or held back."""
        await self.done.wait()

    def release(self) -> None:
        """Let a held reply go to the client."""
        self.go.set()

    async def deliver(self) -> bytes:
        """Send a held request to the server on the connection it was meant for; return the server's reply."""
        await self.happened()
        assert self.what == "hold request", "only a held request can be delivered"
        assert self.link is not None, "the fault has not struck"
        self.link.waiting.append(self)
        self.link.to_server.write(self.request)
        await self.answered.wait()
        assert self.reply is not None, "the server closed the connection"
        return self.reply


class Link:
    """One client's connection and the connection to the server that belongs to it."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.waiting: deque[Fault | None] = deque()  # one for each request sent, in order
        self.held: Fault | None = None
        self.cut = False

    async def run(self) -> None:
        """Serve until both sides are closed."""
        down = asyncio.create_task(self._down())
        try:
            with suppress(*BROKEN):
                await self._up()
            if self.held is not None:
                await down  # the server's side stays open for `deliver`
        finally:
            self.to_client.close()
            self.to_server.close()
            down.cancel()
            for fault in (*self.waiting, self.held):
                if fault is not None:
                    fault.answered.set()
            await asyncio.gather(
                down, self.to_client.wait_closed(), self.to_server.wait_closed(), return_exceptions=True
            )

    async def _up(self) -> None:
        frames = Frames()
        while data := await self.from_client.read(1 << 16):
            self.proxy.bytes_up += len(data)
            for request in frames.feed(data):
                await self.proxy.flowing.wait()
                if not self.cut:  # else what the client still sends is read and thrown away, so it sees no reset
                    await self._request(request)

    async def _request(self, request: bytes) -> None:
        fault = self.proxy.struck_by(request)
        if fault is not None:
            fault.request, fault.link = request, self
        if fault is not None and fault.what == "hold request":
            self.held = fault
            self.close_client()
            fault.done.set()
        elif fault is not None and fault.what == "cut request":
            self.to_server.write(request[: int(fault.amount)])
            with suppress(*BROKEN):
                await self.to_server.drain()
            self.to_server.write_eof()
            self.close_client()
            fault.done.set()
        else:
            self.waiting.append(fault)
            self.to_server.write(request)
            await self.to_server.drain()

    async def _down(self) -> None:
        frames = Frames()
        with suppress(*BROKEN):
            while data := await self.from_server.read(1 << 16):
                for reply in frames.feed(data):
                    await self.proxy.flowing.wait()
                    push = reply[:1] == b">" or not self.waiting
                    await self._reply(reply, None if push else self.waiting.popleft())
        self.close_client()  # the server went away
        if self.held is not None:
            self.held.answered.set()

    async def _reply(self, reply: bytes, fault: Fault | None) -> None:
        shown = reply
        if fault is not None:
            fault.reply = reply
            fault.answered.set()
            if fault.what == "cut reply":
                shown = reply[: int(fault.amount)]
            elif fault.what == "delay":
                await asyncio.sleep(fault.amount)
            elif fault.what == "hold reply":
                fault.done.set()
                await fault.go.wait()
        if not self.cut and shown:
            self.proxy.bytes_down += len(shown)
            self.to_client.write(shown)
            await self.to_client.drain()
        if fault is not None and fault.what == "cut reply":
            self.close_client()
        if fault is not None:
            fault.done.set()

    def close_client(self) -> None:
        """End the stream to the client: it reads what was forwarded, then the end of file."""
        if not self.cut:
            self.cut = True
            with suppress(*BROKEN):
                self.to_client.write_eof()


class FaultProxy:
    """A proxy in front of `upstream`, listening on a loopback port, or on a unix socket with `unix=True`."""

    def __init__(self, upstream: Server | str | tuple[str, int], *, unix: bool = False) -> None:
        self.upstream = upstream if isinstance(upstream, (str, tuple)) else upstream.socket_path
        self.unix = unix
        self.url = ""
        self.connections = 0
        """Connections accepted so far."""
        self.bytes_up = 0
        """Bytes read from clients."""
        self.bytes_down = 0
        """Bytes forwarded to clients."""
        self.requests: Counter[str] = Counter()
        """Requests by command, those a fault struck included."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._faults: list[Fault] = []
        self._links: dict[asyncio.Task[None], Link | None] = {}
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._path = ""

    async def __aenter__(self) -> Self:
        if self.unix:
            self._path = os.path.join(tempfile.mkdtemp(prefix="test-proxy-"), "proxy.sock")
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.refuse()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._path:
            os.rmdir(os.path.dirname(self._path))

    @property
    def open(self) -> int:
        """Connections that clients have open now."""
        return sum(link is not None and not link.cut for link in self._links.values())

    def cut_request(self, after: int = 0, *, nth: int = 1, command: str | None = None) -> Fault:
        """Send the server only the first `after` bytes of the request, then close both sides."""
        return self._arm("cut request", nth, command, after)

    def cut_reply(self, after: int = 0, *, nth: int = 1, command: str | None = None) -> Fault:
        """Send the client only the first `after` bytes of the reply, then close it."""
        return self._arm("cut reply", nth, command, after)

    def swallow_reply(self, *, nth: int = 1, command: str | None = None) -> Fault:
        """The server has applied the request; the client sees its connection closed."""
        return self._arm("cut reply", nth, command, 0)

    def delay(self, seconds: float, *, nth: int = 1, command: str | None = None) -> Fault:
        """Send the reply `seconds` later."""
        return self._arm("delay", nth, command, seconds)

    def hold_reply(self, *, nth: int = 1, command: str | None = None) -> Fault:
        """Keep the reply, and those behind it on this connection, until `fault.release()`."""
        return self._arm("hold reply", nth, command, 0)

    def hold_request(self, *, nth: int = 1, command: str | None = None) -> Fault:
        """Close the client before the request reaches the server; `await fault.deliver()` sends it after all."""
        return self._arm("hold request", nth, command, 0)

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self._path:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)

    async def accept(self) -> None:
        """Accept connections (again), at the same address."""
        if self._listener is not None:
            return
        if self.unix:
            self._listener = await asyncio.start_unix_server(self._serve, self._path)
            self.url = f"unix://{self._path}?db=0"
        else:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]
            self.url = f"redis://127.0.0.1:{self._port}/0"

    def stall(self) -> None:
        """Accept connections and requests, and pass nothing on in either direction until `flow()`."""
        self.flowing.clear()

    def flow(self) -> None:
        """End a stall; what was kept is passed on."""
        self.flowing.set()

    def drop_all(self) -> None:
        """Close every client's connection now."""
        for link in self._links.values():
            if link is not None:
                link.close_client()

    def struck_by(self, request: bytes) -> Fault | None:
        """Count a request; the first armed fault that strikes at it."""
        command = command_of(request)
        self.requests[command] += 1
        struck = [fault for fault in self._faults if fault.meets(command)]
        self._faults = [fault for fault in self._faults if fault.countdown > 0]
        return struck[0] if struck else None

    def _arm(self, what: str, nth: int, command: str | None, amount: float) -> Fault:
        fault = Fault(what, command.upper() if command else None, nth, amount)
        self._faults.append(fault)
        return fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in a task"
        self.connections += 1
        self._links[task] = None
        try:
            if isinstance(self.upstream, str):
                server = await asyncio.open_unix_connection(self.upstream)
            else:
                server = await asyncio.open_connection(*self.upstream)
            self._links[task] = link = Link(self, (reader, writer), server)
            await link.run()
        except OSError:
            writer.close()  # the server is down
        except asyncio.CancelledError:
            writer.close()  # the proxy ends; asyncio's own callback would log a cancelled handler as an error
        finally:
            del self._links[task]
