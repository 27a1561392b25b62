"""A paho-mqtt device: prints {"subscribed": true}, then {"topic", "payload": hex} a message.

The argument is JSON: {"host", "port", "client_id", "user", "password", "filter"}.
"""

import json
import sys

import paho.mqtt.client as mqtt


def say(line):
    print(json.dumps(line), flush=True)


def connected(client, device, _flags, reason, _properties):
    if reason.is_failure:
        sys.exit(f"the broker refused the device: {reason}")
    client.subscribe(device["filter"], qos=1)


def main():
    device = json.loads(sys.argv[1])
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=device["client_id"], userdata=device
    )
    client.username_pw_set(device["user"], device["password"])
    client.on_connect = connected
    client.on_subscribe = lambda *_: say({"subscribed": True})
    client.on_message = lambda _client, _device, message: say(
        {"topic": message.topic, "payload": message.payload.hex()}
    )
    client.connect(device["host"], device["port"])
    client.loop_forever()


if __name__ == "__main__":
    main()
