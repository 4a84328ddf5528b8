"""Interop driver of paho-mqtt for Python.

Owns: one client of the library, which keeps its state when it connects again.
See: docs/interop.md.
"""

import importlib.metadata
import threading

import driver_lines as lines
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Driver:
    """The client and what it waits for."""

    def __init__(self):
        self.client = None
        self.mqtt5 = False
        self.changed = threading.Condition()
        self.connack = None
        self.ended = False
        self.subacks = {}

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, lines.WAIT_SECONDS_MAX):
                raise TimeoutError(what)

    def create(self, request):
        self.mqtt5 = request.get("version") == "5"
        clean = request.get("clean") == "1"
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=request.get("id"),
            clean_session=None if self.mqtt5 else clean,
            protocol=paho.MQTTv5 if self.mqtt5 else paho.MQTTv311,
            transport="websockets" if request.get("transport") == "websocket" else "tcp",
            reconnect_on_failure=False,
        )
        if request.get("transport") == "websocket":
            self.client.ws_set_options(path="/mqtt")
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_message = lambda _client, _data, message: lines.write_paho_message(message)

    def on_connect(self, _client, _data, flags, reason, _properties):
        with self.changed:
            self.connack = (flags.session_present, reason)
            self.changed.notify_all()

    def on_disconnect(self, _client, _data, _flags, reason, _properties):
        lines.write("lost", ("why", reason))
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def on_subscribe(self, _client, _data, mid, reasons, _properties):
        with self.changed:
            self.subacks[mid] = reasons[0].value
            self.changed.notify_all()

    def connect(self, request):
        if self.client is None:
            self.create(request)
        else:
            self.client.loop_stop()
        if request.get("will_topic"):
            properties = None
            if self.mqtt5:
                properties = Properties(PacketTypes.WILLMESSAGE)
                properties.WillDelayInterval = request.number("will_delay")
            self.client.will_set(
                request.get("will_topic"),
                request.get("will_payload"),
                request.number("will_qos"),
                properties=properties,
            )
        options = {}
        if self.mqtt5:
            options["clean_start"] = request.get("clean") == "1"
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = request.number("expiry")
        self.connack, self.ended = None, False
        self.client.connect(request.get("host"), request.number("port"), keepalive=30, **options)
        self.client.loop_start()
        self.wait(lambda: self.connack or self.ended, "CONNACK")
        if self.connack is None:
            raise ConnectionError("the connection ended before CONNACK")
        present, reason = self.connack
        if reason.is_failure:
            raise ConnectionError(f"CONNACK {reason}")
        lines.write("connected", ("present", int(present)))

    def subscribe(self, request):
        properties = None
        if request.get("identifier"):
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = request.number("identifier")
        options = {"properties": properties} if self.mqtt5 else {}
        _, mid = self.client.subscribe(request.get("filter"), request.number("qos"), **options)
        self.wait(lambda: mid in self.subacks or self.ended, "SUBACK")
        if mid not in self.subacks:
            raise ConnectionError("the connection ended before SUBACK")
        lines.write("subscribed", ("reason", self.subacks[mid]))

    def publish(self, request):
        options = {}
        if self.mqtt5:
            options["properties"] = lines.paho_properties(request, PacketTypes.PUBLISH)
            if request.get("expiry"):
                options["properties"].MessageExpiryInterval = request.number("expiry")
        sent = self.client.publish(
            request.get("topic"),
            request.get("payload"),
            request.number("qos"),
            request.get("retain") == "1",
            **options,
        )
        sent.wait_for_publish(lines.WAIT_SECONDS_MAX)
        if not sent.is_published():
            raise TimeoutError("the connection ended" if self.ended else "acknowledgement of PUBLISH")
        lines.write("published")

    def disconnect(self, _request):
        self.client.disconnect()
        self.wait(lambda: self.ended, "the end of the connection")
        lines.write("disconnected")


def main():
    lines.hello(importlib.metadata.version("paho-mqtt"), ["3.1.1", "5", "websocket", "binary", "keeps-state"])
    driver = Driver()
    lines.serve({
        "connect": driver.connect,
        "subscribe": driver.subscribe,
        "publish": driver.publish,
        "disconnect": driver.disconnect,
    })


main()
