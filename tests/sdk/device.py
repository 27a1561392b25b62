"""A paho-mqtt device: prints {"subscribed": true}, then an object a message.

The argument is JSON: {"host", "port", "client_id", "user", "password", "filter"}, and if they are
wanted "version" (4 is MQTT 3.1.1, 5 is MQTT 5), "transport" ("tcp" or "websockets") and "ca", the
file that TLS trusts. A message is {"topic", "payload": hex, "user_properties"}; the last is null
unless it came with any.
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


def received(_client, _device, message):
    properties = getattr(message.properties, "UserProperty", None)
    say(
        {
            "topic": message.topic,
            "payload": message.payload.hex(),
            "user_properties": properties,
        }
    )


def main():
    device = json.loads(sys.argv[1])
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=device["client_id"],
        userdata=device,
        protocol=mqtt.MQTTProtocolVersion(device.get("version", 4)),
        transport=device.get("transport", "tcp"),
    )
    client.username_pw_set(device["user"], device["password"])
    if "ca" in device:
        client.tls_set(ca_certs=device["ca"])
    client.on_connect = connected
    client.on_subscribe = lambda *_: say({"subscribed": True})
    client.on_message = received
    client.connect(device["host"], device["port"])
    client.loop_forever()


if __name__ == "__main__":
    main()
