"""Interop driver of mosquitto_sub and mosquitto_pub.

Owns: one mosquitto_sub for the client's subscriptions, started with the first of them and again with each further
one; a mosquitto_pub for each publish. A client without subscriptions has no connection.
Does not: know whether a session was present; the programs do not say.
See: docs/interop.md.
"""

import queue
import re
import subprocess
import threading

import driver_lines as lines

# Between the fields of a message; in no topic and no payload of the runner. A payload is one line.
SEPARATOR = "\x1f"
FIELDS = ["topic", "qos", "retain", "content_type", "response_topic", "correlation", "expiry", "identifier", "user"]
FORMATS = ["%t", "%q", "%r", "%C", "%R", "%D", "%E", "%S", "%P"]


class Driver:
    """The client as the runner sees it."""

    def __init__(self):
        self.request = None
        self.filters = {}
        self.subscriber = None
        self.subacks = queue.Queue(maxsize=1000)
        self.reader = None

    def connection(self, request, client_id):
        version = "mqttv5" if request.get("version") == "5" else "mqttv311"
        return ["-V", version, "-h", request.get("host"), "-p", request.get("port"), "-i", client_id]

    def connect(self, request):
        self.stop()
        self.request = request
        if self.filters:
            self.start()
        lines.write("connected", ("present", "unknown"))

    def start(self):
        request, mqtt5 = self.request, self.request.get("version") == "5"
        format = SEPARATOR.join(FORMATS if mqtt5 else FORMATS[:3]) + SEPARATOR + "%p"
        command = ["mosquitto_sub", "-d", "-F", "M" + SEPARATOR + format]
        command += self.connection(request, request.get("id"))
        if request.get("clean") == "0":
            command += ["-c"]
        if mqtt5:
            command += ["-x", request.get("expiry")]
        if request.get("will_topic"):
            command += ["--will-topic", request.get("will_topic"), "--will-payload", request.get("will_payload")]
            command += ["--will-qos", request.get("will_qos")]
            # One that has a will ends by its first message: see disconnect.
            command += ["-C", "1"]
        if request.get("will_delay"):
            command += ["-D", "will", "will-delay-interval", request.get("will_delay")]
        # One QoS for all filters of a mosquitto_sub: the runner asks for one per client.
        for filter, subscribe in self.filters.items():
            command += ["-t", filter, "-q", subscribe.get("qos")]
            if subscribe.get("identifier"):
                command += ["-D", "subscribe", "subscription-identifier", subscribe.get("identifier")]
        self.subacks = queue.Queue(maxsize=1000)
        self.subscriber = subprocess.Popen(
            ["stdbuf", "-oL"] + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        self.reader = threading.Thread(target=self.read, args=(self.subscriber, self.subacks))
        self.reader.start()
        return self.suback()

    def suback(self):
        try:
            granted = self.subacks.get(timeout=lines.WAIT_SECONDS_MAX)
        except queue.Empty:
            self.stop()
            raise TimeoutError("SUBACK") from None
        if isinstance(granted, str):
            self.stop()
            raise ConnectionError(granted)
        return granted

    def read(self, process, subacks):
        """Writes the messages of a mosquitto_sub, and notes its SUBACK."""
        said = ""
        for text in process.stdout:
            text = text.rstrip("\n")
            subscribed = re.match(r"Subscribed \(mid: \d+\): (.*)", text)
            if text.startswith("M" + SEPARATOR):
                self.write_message(text.split(SEPARATOR)[1:])
            elif subscribed:
                subacks.put([int(reason) for reason in subscribed.group(1).split(",")])
            elif not text.startswith("Client "):
                said = text
        subacks.put(f"mosquitto_sub ended: {said}")

    def write_message(self, values):
        fields = dict(zip(FIELDS, values[:-1]))
        users = fields.pop("user", "")
        if fields.get("correlation"):
            fields["correlation"] = fields["correlation"].encode().hex()
        pairs = [(key, value) for key, value in fields.items() if value]
        # `%P` does not mark a space within a property; the runner's have none.
        pairs += [("user", user) for user in users.split()]
        lines.write("message", *pairs, ("payload", values[-1]))

    def subscribe(self, request):
        self.filters[request.get("filter")] = request
        self.stop()
        granted = self.start()
        lines.write("subscribed", ("reason", granted[-1]))

    def publish(self, request):
        command = ["mosquitto_pub", "-t", request.get("topic"), "-q", request.get("qos")]
        command += self.connection(self.request, self.request.get("id") + "-pub")
        command += ["-m", request.get("payload")] if request.get("payload") else ["-n"]
        if request.get("retain") == "1":
            command += ["-r"]
        for key, name in [
            ("content_type", "content-type"),
            ("response_topic", "response-topic"),
            ("expiry", "message-expiry-interval"),
        ]:
            if request.get(key):
                command += ["-D", "publish", name, request.get(key)]
        if request.get("correlation"):
            command += ["-D", "publish", "correlation-data", bytes.fromhex(request.get("correlation"))]
        for name, value in request.users():
            command += ["-D", "publish", "user-property", name, value]
        run = subprocess.run(command, capture_output=True, timeout=lines.WAIT_SECONDS_MAX)
        if run.returncode != 0 or run.stderr:
            raise ConnectionError(f"mosquitto_pub ended with {run.returncode}: {run.stderr.decode().strip()}")
        lines.write("published")

    def stop(self):
        """Ends the mosquitto_sub with DISCONNECT, which it sends at SIGTERM; with MQTT 5 it asks for its will then."""
        if self.subscriber is not None:
            self.subscriber.terminate()
            self.subscriber.wait(lines.WAIT_SECONDS_MAX)
            self.reader.join()
            self.subscriber = None

    def disconnect(self, _request):
        """Ends the client so that its will is not published: only its last message makes mosquitto_sub do that."""
        if self.request.get("will_topic"):
            client = self.connection(self.request, self.request.get("id") + "-pub")
            bye = ["-q", "1", "-t", next(iter(self.filters)), "-m", "bye"]
            subprocess.run(["mosquitto_pub"] + client + bye, check=True, timeout=lines.WAIT_SECONDS_MAX)
            self.subscriber.wait(lines.WAIT_SECONDS_MAX)
        self.stop()
        lines.write("disconnected")


def main():
    usage = subprocess.run(["mosquitto_sub", "--help"], capture_output=True, encoding="utf-8").stdout
    version = re.search(r"mosquitto_sub version (\S+)", usage)
    lines.hello(version.group(1) if version else "of unknown version", ["3.1.1", "5"])
    driver = Driver()
    lines.serve({
        "connect": driver.connect,
        "subscribe": driver.subscribe,
        "publish": driver.publish,
        "disconnect": driver.disconnect,
    })


main()
