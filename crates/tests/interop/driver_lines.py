"""The lines between the interop runner and a driver in Python: a word and key=value fields (docs/interop.md).

Owns: reading requests, writing answers. Does not: speak MQTT.
Limits: a wait takes at most WAIT_SECONDS_MAX.
"""

import sys
import threading
import urllib.parse

# Below the runner's own deadline, so that it hears the reason.
WAIT_SECONDS_MAX = 12

_writing = threading.Lock()


class Request:
    """A request: its word, and the values of its fields by key."""

    def __init__(self, text):
        parts = text.split()
        self.word = parts[0]
        self._fields = {}
        for part in parts[1:]:
            key, _, value = part.partition("=")
            self._fields.setdefault(key, []).append(urllib.parse.unquote(value, errors="strict"))

    def get(self, key, default=None):
        return self._fields.get(key, [default])[0]

    def number(self, key, default=0):
        return int(self.get(key, default))

    def users(self):
        """User properties in order, as pairs."""
        return [tuple(value.split(":", 1)) for value in self._fields.get("user", [])]


def write(word, *fields):
    """Writes a line; each field is a pair of key and value. Any thread may call it."""
    line = " ".join([word] + [f"{key}={urllib.parse.quote(str(value), safe='/,:')}" for key, value in fields])
    with _writing:
        print(line, flush=True)


def hello(version, abilities):
    write("hello", ("version", version), ("can", ",".join(abilities)))


def requests():
    """Requests until the runner closes its end."""
    for text in sys.stdin:
        yield Request(text)


def serve(handlers):
    """Answers each request by the handler of its word; an exception is the answer `error`."""
    for request in requests():
        try:
            handlers[request.word](request)
        except Exception as error:  # Whatever a library raises is what the runner wants to read.
            write("error", ("why", f"{type(error).__name__}: {error}"))


def write_paho_message(message):
    """Writes a message of paho-mqtt, which aiomqtt uses too."""
    fields = [
        ("topic", message.topic),
        ("payload", message.payload.decode()),
        ("qos", message.qos),
        ("retain", int(message.retain)),
    ]
    properties = getattr(message, "properties", None)
    if properties is not None:
        fields += [("user", f"{key}:{value}") for key, value in getattr(properties, "UserProperty", [])]
        for key, name in [
            ("content_type", "ContentType"),
            ("response_topic", "ResponseTopic"),
            ("expiry", "MessageExpiryInterval"),
        ]:
            if hasattr(properties, name):
                fields.append((key, getattr(properties, name)))
        if hasattr(properties, "CorrelationData"):
            fields.append(("correlation", properties.CorrelationData.hex()))
        fields += [("identifier", number) for number in getattr(properties, "SubscriptionIdentifier", [])]
    write("message", *fields)


def paho_properties(request, kind):
    """Properties of a request for paho-mqtt; `kind` is a packet type, or PacketTypes.WILLMESSAGE."""
    from paho.mqtt.properties import Properties

    properties = Properties(kind)
    names = {
        "content_type": "ContentType",
        "response_topic": "ResponseTopic",
    }
    for key, name in names.items():
        if request.get(key) is not None:
            setattr(properties, name, request.get(key))
    if request.get("correlation") is not None:
        properties.CorrelationData = bytes.fromhex(request.get("correlation"))
    if request.users():
        properties.UserProperty = request.users()
    return properties
