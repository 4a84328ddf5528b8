"""Interop driver of aiomqtt.

Owns: one client of the library at a time; each connection is a new one, which starts without the state of the last.
See: docs/interop.md.
"""

import asyncio
import importlib.metadata
import sys

import aiomqtt
import driver_lines as lines
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Driver:
    """The client and the task that writes what arrives."""

    def __init__(self):
        self.client = None
        self.arrivals = None
        self.mqtt5 = False

    async def connect(self, request):
        self.mqtt5 = request.get("version") == "5"
        await self.drop()
        will = None
        if request.get("will_topic"):
            properties = None
            if self.mqtt5:
                properties = Properties(PacketTypes.WILLMESSAGE)
                properties.WillDelayInterval = request.number("will_delay")
            will = aiomqtt.Will(
                request.get("will_topic"),
                request.get("will_payload"),
                request.number("will_qos"),
                properties=properties,
            )
        options = {}
        clean = request.get("clean") == "1"
        if self.mqtt5:
            options["clean_start"] = clean
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = request.number("expiry")
        else:
            options["clean_session"] = clean
        if request.get("transport") == "websocket":
            options["websocket_path"] = "/mqtt"
        client = aiomqtt.Client(
            request.get("host"),
            request.number("port"),
            identifier=request.get("id"),
            protocol=aiomqtt.ProtocolVersion.V5 if self.mqtt5 else aiomqtt.ProtocolVersion.V311,
            transport="websockets" if request.get("transport") == "websocket" else "tcp",
            will=will,
            timeout=lines.WAIT_SECONDS_MAX,
            **options,
        )
        await client.__aenter__()
        self.client = client
        self.arrivals = asyncio.create_task(self.write_arrivals(client))
        # The library does not tell whether the session was present.
        lines.write("connected", ("present", "unknown"))

    async def write_arrivals(self, client):
        try:
            async for message in client.messages:
                lines.write_paho_message(message)
        except aiomqtt.MqttError as error:
            lines.write("lost", ("why", error))

    async def drop(self):
        """Leaves the last client; its connection has ended already, or ends here."""
        client, self.client = self.client, None
        if client is not None:
            try:
                await client.__aexit__(None, None, None)
            except aiomqtt.MqttError:
                pass
            await self.arrivals

    async def subscribe(self, request):
        options = {}
        if self.mqtt5 and request.get("identifier"):
            options["properties"] = Properties(PacketTypes.SUBSCRIBE)
            options["properties"].SubscriptionIdentifier = request.number("identifier")
        granted = await self.client.subscribe(request.get("filter"), request.number("qos"), **options)
        lines.write("subscribed", ("reason", getattr(granted[0], "value", granted[0])))

    async def publish(self, request):
        options = {}
        if self.mqtt5:
            options["properties"] = lines.paho_properties(request, PacketTypes.PUBLISH)
            if request.get("expiry"):
                options["properties"].MessageExpiryInterval = request.number("expiry")
        await self.client.publish(
            request.get("topic"),
            request.get("payload"),
            request.number("qos"),
            request.get("retain") == "1",
            **options,
        )
        lines.write("published")

    async def disconnect(self, _request):
        await self.drop()
        lines.write("disconnected")


async def main():
    lines.hello(importlib.metadata.version("aiomqtt"), ["3.1.1", "5", "websocket", "binary"])
    driver = Driver()
    loop = asyncio.get_running_loop()
    while text := await loop.run_in_executor(None, sys.stdin.readline):
        request = lines.Request(text)
        try:
            await getattr(driver, request.word)(request)
        except Exception as error:  # Whatever the library raises is what the runner wants to read.
            lines.write("error", ("why", f"{type(error).__name__}: {error}"))


asyncio.run(main())
