"""aliyun-python-sdk-core as its users call it; the argument is the shape of the request.

product      aliyun-python-sdk-onsmqtt's SendMessageRequest: everything in the query of a POST
common-body  CommonRequest with body parameters
"""

import json
import sys
from functools import cache

from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest
from aliyunsdkonsmqtt.request.v20200420.SendMessageRequest import SendMessageRequest

from calls import serve

PATIENCE_S = 30


def product(call):
    request = SendMessageRequest()
    request.set_InstanceId(call["instance"])
    request.set_MqttTopic(call["topic"])
    request.set_Payload(call["payload"])
    request.set_endpoint(call["endpoint"])
    return request


def common_body(call):
    request = CommonRequest(
        domain=call["endpoint"], version="2020-04-20", action_name="SendMessage", product="OnsMqtt"
    )
    request.set_method("POST")
    request.add_body_params("InstanceId", call["instance"])
    request.add_body_params("MqttTopic", call["topic"])
    request.add_body_params("Payload", call["payload"])
    return request


SHAPES = {"product": product, "common-body": common_body}


@cache
def client_for(key, secret):
    return AcsClient(
        key, secret, "cn-hangzhou", timeout=PATIENCE_S, connect_timeout=PATIENCE_S
    )


def sender(shape):
    def send(call):
        client = client_for(call["key"], call["secret"])
        request = SHAPES[shape](call)
        request.set_protocol_type("http")
        body = json.loads(client.do_action_with_exception(request))
        return {"msg_id": body["MsgId"], "request_id": body["RequestId"]}

    return send


def describe(error):
    return {
        "code": getattr(error, "error_code", None),
        "message": getattr(error, "message", None) or str(error),
        "status": getattr(error, "http_status", None),
        "request_id": getattr(error, "request_id", None),
    }


if __name__ == "__main__":
    serve(sender(sys.argv[1]), describe)
