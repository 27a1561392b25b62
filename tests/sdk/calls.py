"""One call a line on standard input, one answer a line on standard output, both JSON.

A call:    {"endpoint": "host:port", "key", "secret", "instance", "topic", "payload": Base64}, and
           "ca", the path of a PEM file, to call over https (tea.py only)
An answer: {"msg_id", "request_id"}, or, if the SDK raised, {"raised": class name, "code",
           "message", "status", "request_id", "retry_after"}
"""

import json
import sys


def serve(send, describe):
    """Sends what comes in with `send(call)`; `describe(error)` names the parts of what it raises."""
    for line in sys.stdin:
        try:
            answer = send(json.loads(line))
        except Exception as error:  # whatever the SDK throws at its user is the answer
            answer = {"raised": type(error).__name__, "message": str(error), **describe(error)}
        print(json.dumps(answer), flush=True)
