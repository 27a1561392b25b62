'use strict';
// @alicloud/pop-core as its users call it; the argument is the shape of the request.
//
// get   the default: RPC, HMAC-SHA1, everything in the query of a GET
// post  everything, the signature too, in the form body of a POST

const { RPCClient } = require('@alicloud/pop-core');
const { fields, remembered, serve } = require('./calls');

const METHOD = process.argv[2].toUpperCase();
const PATIENCE_MS = 30000;

// A client keeps its connection open from call to call.
const clientFor = remembered((call) => new RPCClient({
  accessKeyId: call.key,
  accessKeySecret: call.secret,
  endpoint: `http://${call.endpoint}`,
  apiVersion: '2020-04-20',
}));

async function send(call) {
  const body = await clientFor(call).request('SendMessage', fields(call), {
    method: METHOD,
    timeout: PATIENCE_MS,
  });
  return { msg_id: body.MsgId, request_id: body.RequestId };
}

function describe(error) {
  return {
    code: error.code,
    status: error.entry && error.entry.response.statusCode,
    request_id: error.data && error.data.RequestId,
  };
}

serve(send, describe);
