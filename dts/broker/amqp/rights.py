"""What the user of a connection may do, as far as AMQP lets it be found out without a trace."""

from __future__ import annotations

from dts.broker.amqp.channel import ChannelClosed, Connection
from dts.broker.amqp.link import scratch_channel

ACCESS_REFUSED = 403
"""AMQP 0-9-1 reply code: the user has no permission."""

_INVALID = {"x-priority": "none"}
"""Arguments that RabbitMQ refuses a consumer for: a priority must be a number."""


async def may_read(connection: Connection, queue: str) -> bool:
    """Whether the user may consume from a queue.

    RabbitMQ checks the permission before the arguments (seen with 3.10). So an invalid consumer is refused for its
    arguments (406) if the user has the permission and for the want of it (403) if not, and gets no message either way.

    Raises:
        AMQP_ERRORS: the broker did not answer.
    """
    try:
        async with scratch_channel(connection) as channel:
            await channel.basic_consume(None, queue, arguments=_INVALID)
    except ChannelClosed as error:
        return bool(error.code != ACCESS_REFUSED)
    return True
