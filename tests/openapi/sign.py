"""Signs what schemathesis sends, as it goes over the wire.

Loaded through SCHEMATHESIS_HOOKS. WEIR_KEY_ID and WEIR_SECRET say who signs; WEIR_KNOWN, a JSON
object of lists by parameter, what to draw from in place of what the document allows. A call with
x-acs-version among its headers is signed as V3, any other as V1. What was generated for a signature
is replaced; the rest goes as generated.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import schemathesis
from requests.auth import AuthBase

KEY_ID = os.environ["WEIR_KEY_ID"]
SECRET = os.environ["WEIR_SECRET"].encode()
# What a signature brings by itself.
SIGNED = {
    "Action", "Version", "AccessKeyId", "SignatureMethod", "SignatureVersion", "SignatureNonce",
    "Timestamp", "x-acs-action", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256",
}
FORM = "application/x-www-form-urlencoded"
nonces = itertools.count()


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """What a signature brings is not drawn, and what is known is drawn from; answers stay."""
    parameters = raw_schema["components"]["parameters"]
    for name, values in json.loads(os.environ.get("WEIR_KNOWN", "{}")).items():
        parameters[name] |= {"schema": {"enum": values}, "required": True}
        raw_schema["components"]["schemas"]["Message"] = {"type": "object", "maxProperties": 0}
    for operation in raw_schema["paths"]["/"].values():
        if isinstance(operation, dict):
            kept = [p for p in operation["parameters"] if p["$ref"].split("/")[-1] not in SIGNED]
            operation["parameters"] = kept


class Signed(AuthBase):
    def __call__(self, request):
        nonce = f"schemathesis-{os.getpid()}-{next(nonces)}"
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        if "x-acs-version" in request.headers:
            self.v3(request, now, nonce)
        else:
            self.v1(request, now, nonce)
        return request

    def v3(self, request, now, nonce):
        parts = urlsplit(request.url)
        body = hashlib.sha256(to_bytes(request.body)).hexdigest()
        request.headers.update({
            "host": parts.netloc,
            "x-acs-action": "SendMessage",
            "x-acs-content-sha256": body,
            "x-acs-date": now,
            "x-acs-signature-nonce": nonce,
        })
        signed = {
            name.lower(): value.strip()
            for name, value in request.headers.items()
            if name.lower() == "host" or name.lower().startswith("x-acs-")
        }
        names = sorted(signed)
        lines = [request.method, "/", canonical(parse_qsl(parts.query, keep_blank_values=True))]
        lines += [f"{name}:{signed[name]}" for name in names] + ["", ";".join(names), body]
        text = "ACS3-HMAC-SHA256\n" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
        signature = hmac.new(SECRET, text.encode(), "sha256").hexdigest()
        request.headers["Authorization"] = (
            f"ACS3-HMAC-SHA256 Credential={KEY_ID},SignedHeaders={';'.join(names)},"
            f"Signature={signature}"
        )

    def v1(self, request, now, nonce):
        request.headers.pop("Authorization", None)
        parts = urlsplit(request.url)
        query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True)
                 if pair[0] not in SIGNED | {"Signature"}]
        query += {
            "Action": "SendMessage",
            "Version": "2020-04-20",
            "AccessKeyId": KEY_ID,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": nonce,
            "Timestamp": now,
        }.items()
        form = []
        if request.headers.get("Content-Type", "").startswith(FORM):
            form = parse_qsl(to_bytes(request.body).decode(), keep_blank_values=True)
        text = f"{request.method}&%2F&{quote(canonical(query + form), safe='-_.~')}"
        digest = hmac.new(SECRET + b"&", text.encode(), "sha1").digest()
        query.append(("Signature", base64.b64encode(digest).decode()))
        request.url = urlunsplit(parts._replace(query=urlencode(query)))


def to_bytes(body):
    return body if isinstance(body, bytes) else (body or "").encode()


def canonical(pairs):
    pairs = sorted((name.encode(), value.encode()) for name, value in pairs)
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)


schemathesis.auth.set_from_requests(Signed())
