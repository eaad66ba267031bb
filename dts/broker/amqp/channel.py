"""AMQP on the wire: aioamqp's connection and channel, with what they lack. The only module that imports them.

What is mended here, of aioamqp 0.15:

- Confirms: `multiple` on basic.ack and basic.nack is honoured; a batch of messages is one write and one future.
- Reading: nothing is awaited between frames, so that no callback, drain or lost answer can stop the read loop; frames
  of several channels may interleave; whatever breaks the stream ends the connection, and is noticed.
- Endings: a channel that the broker closes, or a consumer that it cancels, sets `Channel.lost`.
- Heartbeats: a silent peer is cut off, even with unsent bytes left, which a graceful close would wait for.
- Alarms: `connection.blocked` is understood. Connecting has one deadline, and a failure cannot hang.
- Bodies are cut at `frame_max - 8`, since the limit includes a frame's own eight bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aioamqp.channel
import aioamqp.exceptions
import aioamqp.protocol
import pamqp.body
import pamqp.commands
import pamqp.encode
import pamqp.frame
import pamqp.header
import pamqp.heartbeat

from dts.broker.abc import Message
from dts.broker.amqp.batch import Batch

log = logging.getLogger(__name__)

AMQP_ERRORS = (aioamqp.exceptions.AioamqpException, OSError)
"""What any use of a connection or a channel may raise; TimeoutError is an OSError."""

ChannelClosed = aioamqp.exceptions.ChannelClosed
ConnectionLost = aioamqp.exceptions.AmqpClosedConnection

WRITE_SIZE = 1 << 18
"""Bytes of messages that are joined into one write to the socket."""

_FRAME_HEADER = struct.Struct(">BHI")
_FRAME_END = 0xCE
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC, _BASIC_PUBLISH, _BASIC_ACK, _BASIC_NACK = 60, 40, 80, 120
_PERSISTENT = 2
_FLAG_ENCODING, _FLAG_HEADERS, _FLAG_DELIVERY_MODE, _FLAG_MESSAGE_ID = 1 << 14, 1 << 13, 1 << 12, 1 << 7

_commands = pamqp.commands


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it was delivered, with the number that settles it."""

    tag: int
    redelivered: bool
    routing_key: str
    body: bytes
    content_encoding: str
    headers: Mapping[str, Any]


class Channel(aioamqp.channel.Channel):  # type: ignore[misc]
    """A channel for one publisher or one consumer."""

    def __init__(self, protocol: Connection, channel_id: int, **options: Any) -> None:
        super().__init__(protocol, channel_id, **options)
        self.lost = asyncio.Event()
        self.why = "closed"
        self.on_delivery: Callable[[Incoming], None] | None = None
        self._tags = itertools.count(1)
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        self._method: Any = None
        self._header: Any = None
        self._chunks: list[bytes] = []
        self._missing = 0

    # Reading

    async def dispatch_frame(self, frame: Any) -> None:
        """Handle a frame of this channel; content is put together, the rest is aioamqp's."""
        match frame:
            case pamqp.body.ContentBody():
                self._take_body(frame.value)
            case pamqp.header.ContentHeader():
                self._header, self._chunks, self._missing = frame, [], frame.body_size
                if not self._missing:
                    self._take_content(b"")
            case _commands.Basic.Deliver() | _commands.Basic.Return():
                self._method = frame
            case _commands.Basic.Ack():
                self._confirm(frame.delivery_tag, multiple=frame.multiple, stored=True)
            case _commands.Basic.Nack():
                self._confirm(frame.delivery_tag, multiple=frame.multiple, stored=False)
            case _:
                await super().dispatch_frame(frame)

    def _take_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._missing -= len(chunk)
        if self._missing <= 0:
            self._take_content(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))

    def _take_content(self, body: bytes) -> None:
        method, header = self._method, self._header
        self._method, self._header, self._chunks = None, None, []
        properties = header.properties
        if isinstance(method, _commands.Basic.Return):
            self._take_return(method, properties.message_id)
        elif self.on_delivery is not None:
            self.on_delivery(
                Incoming(
                    tag=method.delivery_tag,
                    redelivered=method.redelivered,
                    routing_key=method.routing_key,
                    body=body,
                    content_encoding=_text(properties.content_encoding),
                    headers={_text(key): value for key, value in (properties.headers or {}).items()},
                )
            )

    def _take_return(self, method: Any, message_id: str | None) -> None:
        """A message that no queue took; the broker acks it right after this."""
        batch = self._batches.get(int(message_id or 0))
        if batch is not None:
            batch.returned.add(int(message_id or 0))
        log.debug("returned from %r: %s", method.routing_key, method.reply_text)

    def _confirm(self, tag: int, *, multiple: bool, stored: bool) -> None:
        if not multiple:
            batch = self._batches.pop(tag, None)
            if batch is not None:
                batch.settle(tag, stored=stored)
            return
        while self._batches and (first := next(iter(self._batches))) <= tag:
            self._batches.pop(first).settle(first, stored=stored)

    def _get_waiter(self, rpc_name: str) -> asyncio.Future[Any]:
        """The future of a request; an answer to one that was given up goes nowhere, instead of breaking the reader."""
        waiter: asyncio.Future[Any] | None = self._futures.pop(rpc_name, None)
        if waiter is None or waiter.done():
            return asyncio.get_running_loop().create_future()
        return waiter

    # Endings

    def connection_closed(
        self, server_code: int | None = None, server_reason: str | None = None, exception: Any = None
    ) -> None:
        """The channel or its connection is gone: every request and batch on it ends."""
        super().connection_closed(server_code, server_reason, exception)
        self._lose(server_reason or "connection lost")

    async def server_basic_cancel(self, frame: Any) -> None:
        """The broker ended the consumer, since its queue was deleted or its leader changed."""
        self._lose("consumer cancelled by the broker")

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self.why = why
            self.lost.set()
        batches, self._batches = self._batches, OrderedDict()
        for batch in batches.values():
            batch.finish()

    async def _send_channel_close_ok(self) -> None:
        # aioamqp would drain here, in the read loop, which then stands still while the broker blocks us.
        await self._write_frame(self.channel_id, _commands.Channel.CloseOk(), drain=False)

    def discard(self) -> None:
        """Close without waiting for the answer; the broker requeues what was delivered and not settled."""
        if self.is_open and self.protocol.is_open:
            self.on_delivery = None
            self.close_event.set()
            self._write(pamqp.frame.marshal(_commands.Channel.Close(0, "done", 0, 0), self.channel_id))
            self._lose("closed")

    @property
    def idle(self) -> bool:
        """Whether no message waits for a confirm."""
        return not self._batches

    # Writing

    async def send(self, exchange: str, routing_key: str, message: Message) -> None:
        """Write one message that nobody needs a confirm for. The channel must not be in confirm mode.

        Raises:
            AMQP_ERRORS: the channel cannot be used.
        """
        await self.protocol._drain()
        if self.lost.is_set() or not self.protocol.is_open:
            raise ConnectionLost()
        method = self._publish_method(exchange, routing_key, mandatory=False)
        self._write(b"".join((method, *self._content(message))))

    async def publish(self, queue: str, batch: Batch) -> None:
        """Write a batch of messages to a queue in few large writes, and wait until the broker has answered for each.

        Needs confirm mode. A caller that stops waiting gives the batch up: nothing is kept of it, and a late answer is
        passed over. A batch that ends with its channel has messages left: see `Batch.remaining`.

        Raises:
            AMQP_ERRORS: the channel cannot be used.
        """
        method = self._publish_method("", queue, mandatory=True)
        more = True
        try:
            while more:
                # While a blocked broker reads nothing, nothing is added to what waits in memory.
                await self.protocol._drain()
                if self.lost.is_set() or not self.protocol.is_open:
                    return
                more = self._write_some(method, batch)
            await batch.done
        finally:
            for tag in batch.open:
                self._batches.pop(tag, None)

    def _write_some(self, method: bytes, batch: Batch) -> bool:
        """Write about WRITE_SIZE bytes of a batch. Tags count what is written, so nothing is awaited in here."""
        parts: list[bytes] = []
        size = 0
        while size < WRITE_SIZE:
            tag = next(self._tags)
            message = batch.next(tag)
            if message is None:
                self._tags = itertools.count(tag)
                break
            self._batches[tag] = batch
            parts.append(method)
            parts.extend(self._content(message, tag))
            size += len(message.body)
        if parts:
            self._write(b"".join(parts))
        return size >= WRITE_SIZE

    def _publish_method(self, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
        arguments = struct.pack(">HHH", _BASIC, _BASIC_PUBLISH, 0)
        arguments += _short_string(exchange) + _short_string(routing_key) + bytes([mandatory])
        return self._frame(_METHOD, arguments)

    def _content(self, message: Message, tag: int = 0) -> Iterable[bytes]:
        """The header frame, with the tag as message id to know a returned message by, and the body frames."""
        flags = _FLAG_DELIVERY_MODE | _FLAG_MESSAGE_ID
        properties = b""
        if message.content_encoding:
            flags |= _FLAG_ENCODING
            properties += _short_string(message.content_encoding)
        if message.headers:
            flags |= _FLAG_HEADERS
            properties += pamqp.encode.field_table(dict(message.headers))
        properties += bytes([_PERSISTENT]) + _short_string(str(tag))
        body = message.body
        yield self._frame(_HEADER, struct.pack(">HHQH", _BASIC, 0, len(body), flags) + properties)
        room = self.protocol.frame_room
        for start in range(0, len(body), room):
            yield self._frame(_BODY, body[start : start + room])

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return b"".join((_FRAME_HEADER.pack(kind, self.channel_id, len(payload)), payload, bytes([_FRAME_END])))

    def ack(self, tags: Iterable[tuple[int, bool]]) -> None:
        """Settle deliveries: pairs of a tag and whether it stands for all before it, too. Does not wait."""
        self._settle(_BASIC_ACK, ((tag, int(multiple)) for tag, multiple in tags))

    def nack(self, tags: Iterable[int], *, requeue: bool) -> None:
        """Give deliveries back, or with `requeue` false to the dead-letter exchange. Does not wait."""
        self._settle(_BASIC_NACK, ((tag, 2 * requeue) for tag in tags))

    def _settle(self, method: int, pairs: Iterable[tuple[int, int]]) -> None:
        frames = [self._frame(_METHOD, struct.pack(">HHQB", _BASIC, method, tag, bits)) for tag, bits in pairs]
        if frames and self.is_open and self.protocol.is_open:
            self._write(b"".join(frames))

    def _write(self, data: bytes) -> None:
        self.protocol._stream_writer.write(data)


class Connection(aioamqp.protocol.AmqpProtocol):  # type: ignore[misc]
    """One connection, opened by `link.connect`. Once lost it stays lost."""

    CHANNEL_FACTORY = Channel

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.declared: set[str] = set()
        self.declaring = asyncio.Lock()
        self.blocked = ""
        self.refusal = ""
        self._received_at = self._sent_at = 0.0
        self._heart: asyncio.Task[None] | None = None
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Remember the transport, which asyncio forgets as soon as the connection is lost; called by asyncio."""
        super().connection_made(transport)
        self._socket = transport

    async def _drain(self) -> None:
        async with self._drain_lock:
            # None once the connection is lost, which may happen while others drain.
            if self._stream_writer is None:
                raise ConnectionLost()
            await self._stream_writer.drain()

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and nobody has begun to close."""
        return bool(self.state == aioamqp.protocol.OPEN)

    @property
    def frame_room(self) -> int:
        """Bytes of body that fit into a frame."""
        return int(self.server_frame_max or 131072) - 8

    async def get_frame(self) -> tuple[int, Any]:
        """Read a frame.

        Raises:
            AmqpClosedConnection: the connection ended, also in the middle of a frame, or does not speak AMQP.
        """
        try:
            head = await self._reader.readexactly(_FRAME_HEADER.size)
            kind, channel, size = _FRAME_HEADER.unpack(head)
            payload = await self._reader.readexactly(size + 1)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ConnectionLost() from error
        if payload[-1] != _FRAME_END:
            raise ConnectionLost()
        if kind == _BODY:
            return channel, pamqp.body.ContentBody(payload[:-1])
        try:
            _, channel, frame = pamqp.frame.unmarshal(head + payload)
        except Exception as error:
            if kind == _HEADER:
                # Somebody else's message, with a time of the year 30000 or the like. Without its properties nobody can
                # handle it, and it ends as a dead letter; to lose the connection for it would take all others along.
                log.warning("the properties of a message cannot be read, and are left out: %r", error)
                return channel, _bare_header(payload)
            raise ConnectionLost() from error
        return channel, frame

    async def dispatch_frame(self, frame_channel: int | None = None, frame: Any = None) -> None:
        """Handle one frame, the next one unless it is given."""
        if frame is None:
            frame_channel, frame = await self.get_frame()
        if frame_channel:
            channel = self.channels.get(frame_channel)
            if channel is not None:
                await channel.dispatch_frame(frame)
        elif isinstance(frame, _commands.Connection.Blocked):
            self.blocked = frame.reason or "no reason given"
            log.warning("the broker blocks publishers: %s", self.blocked)
        elif isinstance(frame, _commands.Connection.Unblocked):
            self.blocked = ""
            log.info("the broker takes messages again")
        else:
            await super().dispatch_frame(frame_channel, frame)

    async def run(self) -> None:
        """Read until the connection ends, by whatever. After an error the stream is out of step, so it ends as well."""
        try:
            while not self.stop_now.is_set():
                await self.dispatch_frame()
        except ConnectionLost:
            log.debug("connection lost")
        except Exception:
            log.exception("cannot go on reading from the broker")
        finally:
            self.stop_now.set()
            if self.state != aioamqp.protocol.CLOSING:
                self.abort()

    async def server_close(self, frame: Any) -> None:
        """The broker ends the connection, and says why. As the library does it, but that warns at every attempt."""
        self.refusal = f"{frame.reply_text} ({frame.reply_code})"
        log.debug("the broker has closed the connection: %s", self.refusal)
        self.state = aioamqp.protocol.CLOSING
        self._close_channels(frame.reply_code, frame.reply_text)
        await self._close_ok()
        self.stop_now.set()
        self._stream_writer.close()

    async def _close_ok(self) -> None:
        self._stream_writer.write(pamqp.frame.marshal(_commands.Connection.CloseOk(), 0))

    def abort(self) -> None:
        """Cut the connection now; `connection_closed` follows."""
        if self._socket is not None:
            self._socket.abort()

    async def shut(self, timeout: float = 2.0) -> None:
        """Close in good manners if that works within `timeout` seconds, and return when nothing of it is left."""
        try:
            async with asyncio.timeout(timeout):
                await self.close()
        except AMQP_ERRORS as error:
            log.debug("connection not closed in good manners: %r", error)
        self.abort()
        await self.connection_closed.wait()
        for task in (self.worker, self._heart):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # Heartbeats: aioamqp's own timers close gracefully, which waits for ever to send to a peer that is frozen.

    def _heartbeat_timer_recv_reset(self) -> None:
        self._received_at = asyncio.get_running_loop().time()

    def _heartbeat_timer_send_reset(self) -> None:
        self._sent_at = asyncio.get_running_loop().time()

    def _heartbeat_stop(self) -> None:
        if self._heart is not None:
            self._heart.cancel()

    def begin_heartbeats(self) -> None:
        """Send heartbeats as negotiated, and cut the connection when none come."""
        if self.server_heartbeat:
            self._heart = asyncio.create_task(self._beat(float(self.server_heartbeat)), name="amqp-heartbeat")

    async def _beat(self, interval: float) -> None:
        clock = asyncio.get_running_loop().time
        beat = pamqp.heartbeat.Heartbeat().marshal()
        while True:
            await asyncio.sleep(interval / 2)
            if clock() - self._received_at > 2 * interval:
                # If it was this process that stood still, what has arrived meanwhile is read first.
                await asyncio.sleep(0.1)
            if clock() - self._received_at > 2 * interval:
                log.warning("nothing heard from the broker for %.0f s: connection cut", 2 * interval)
                self.abort()
                return
            if clock() - self._sent_at >= interval / 2:
                self._stream_writer.write(beat)


def _text(value: object) -> str:
    """What should be a text, as one: what is no UTF-8 comes as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _bare_header(payload: bytes) -> pamqp.header.ContentHeader:
    """The header of a message without properties."""
    _, weight, size = struct.unpack_from(">HHQ", payload)
    return pamqp.header.ContentHeader(weight, size, _commands.Basic.Properties())


def _short_string(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
