"""alibabacloud_onsmqtt20200420 as its users call it; the argument is the shape of the request.

v3          the default: ACS3-HMAC-SHA256, everything in the query
v3-async    the same through send_message_async
sm3         ACS3-HMAC-SM3
v2          signature_algorithm='v2': RPC, HMAC-SHA1
form, json  the generic call_api with a body
default     what release 1.0.0 knows: RPC, HMAC-SHA1, a form body
"""

import asyncio
import sys
from functools import cache

from alibabacloud_onsmqtt20200420.client import Client
from alibabacloud_onsmqtt20200420.models import SendMessageRequest
from alibabacloud_tea_openapi.models import Config, OpenApiRequest, Params
from alibabacloud_tea_util.models import RuntimeOptions

from calls import serve

ALGORITHMS = {"sm3": "ACS3-HMAC-SM3", "v2": "v2"}
BODIES = {"form": "formData", "json": "json"}
# A request line of 256 KiB on a busy machine takes longer than the SDK's own 5 s at times.
PATIENT = RuntimeOptions(connect_timeout=30_000, read_timeout=30_000)


@cache
def client_for(endpoint, key, secret, shape, ca):
    config = Config(
        access_key_id=key,
        access_key_secret=secret,
        endpoint=endpoint,
        protocol="HTTPS" if ca else "HTTP",
        ca=ca,
    )
    if shape in ALGORITHMS:
        config.signature_algorithm = ALGORITHMS[shape]
    return Client(config)


def fields(call):
    return {
        "InstanceId": call["instance"],
        "MqttTopic": call["topic"],
        "Payload": call["payload"],
    }


def model(call):
    return SendMessageRequest(
        instance_id=call["instance"], mqtt_topic=call["topic"], payload=call["payload"]
    )


def generic(client, call, body_type):
    params = Params(
        action="SendMessage",
        version="2020-04-20",
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type=body_type,
        body_type="json",
    )
    body = client.call_api(params, OpenApiRequest(body=fields(call)), PATIENT)["body"]
    return {"msg_id": body["MsgId"], "request_id": body["RequestId"]}


def sender(shape):
    def send(call):
        client = client_for(call["endpoint"], call["key"], call["secret"], shape, call.get("ca"))
        if shape in BODIES:
            return generic(client, call, BODIES[shape])
        if shape == "v3-async":
            answer = asyncio.run(client.send_message_with_options_async(model(call), PATIENT))
        else:
            answer = client.send_message_with_options(model(call), PATIENT)
        return {"msg_id": answer.body.msg_id, "request_id": answer.body.request_id}

    return send


def describe(error):
    return {
        "code": getattr(error, "code", None),
        "message": getattr(error, "message", None) or str(error),
        "status": getattr(error, "status_code", None),
        "request_id": getattr(error, "request_id", None),
        "retry_after": getattr(error, "retry_after", None),
    }


if __name__ == "__main__":
    serve(sender(sys.argv[1]), describe)
