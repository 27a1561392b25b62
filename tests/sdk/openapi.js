'use strict';
// @alicloud/openapi-client as its users call it; the argument is the shape of the request.
//
// query  the default: ACS3-HMAC-SHA256, everything in the query
// form   ACS3-HMAC-SHA256, a form body, which this SDK sends chunked
// sm3    ACS3-HMAC-SM3, everything in the query
// v2     signatureAlgorithm 'v2': RPC, HMAC-SHA1

const { default: Client, Config, OpenApiRequest, Params } = require('@alicloud/openapi-client');
const { RuntimeOptions } = require('@alicloud/tea-util');
const { fields, remembered, serve } = require('./calls');

const SHAPE = process.argv[2];
const ALGORITHMS = { sm3: 'ACS3-HMAC-SM3', v2: 'v2' };
const PATIENCE_MS = 30000;

const PARAMS = new Params({
  action: 'SendMessage',
  version: '2020-04-20',
  protocol: 'HTTP',
  pathname: '/',
  method: 'POST',
  authType: 'AK',
  style: 'RPC',
  reqBodyType: 'formData',
  bodyType: 'json',
});

const clientFor = remembered((call) => new Client(new Config({
  accessKeyId: call.key,
  accessKeySecret: call.secret,
  endpoint: call.endpoint,
  protocol: 'HTTP',
  signatureAlgorithm: ALGORITHMS[SHAPE],
})));

async function send(call) {
  const where = SHAPE === 'form' ? 'body' : 'query';
  const { body } = await clientFor(call).callApi(
    PARAMS,
    new OpenApiRequest({ [where]: fields(call) }),
    new RuntimeOptions({ readTimeout: PATIENCE_MS, connectTimeout: PATIENCE_MS }),
  );
  return { msg_id: body.MsgId, request_id: body.RequestId };
}

function describe(error) {
  return {
    code: error.code,
    status: error.data && error.data.statusCode,
    request_id: error.data && error.data.RequestId,
  };
}

serve(send, describe);
