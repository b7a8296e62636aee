"""What an instance says on the bus: signals.py INSTANCE prints each signal as a line of JSON."""

import asyncio
import json
import sys
import time

from dbus_next import BusType, Message, MessageType
from dbus_next.aio import MessageBus


def printed(message: Message) -> bool:
    if message.message_type is MessageType.SIGNAL and message.path.startswith("/org/udpproxy1"):
        body = [
            {key: each.value for key, each in value.items()} if isinstance(value, dict) else value
            for value in message.body
        ]
        print(json.dumps([time.monotonic(), message.member, body]), flush=True)
    return False


async def main() -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    bus.add_message_handler(printed)
    rule = f"type='signal',sender='org.udpproxy1.{sys.argv[1]}'"
    await bus.call(
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        )
    )
    print(json.dumps([time.monotonic(), "listening", []]), flush=True)
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
