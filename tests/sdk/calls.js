'use strict';
// One call a line on standard input, one answer a line on standard output; see calls.py.

const readline = require('readline');

async function serve(send, describe) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const answer = await send(JSON.parse(line)).catch((error) => ({
      raised: error.name,
      message: error.message,
      ...describe(error),
    }));
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
  process.exit(0); // an SDK's kept-alive sockets would hold the process
}

function fields(call) {
  return { InstanceId: call.instance, MqttTopic: call.topic, Payload: call.payload };
}

// One client a caller, as an application has.
function remembered(make) {
  const clients = new Map();
  return (call) => {
    const caller = `${call.endpoint} ${call.key} ${call.secret}`;
    if (!clients.has(caller)) clients.set(caller, make(call));
    return clients.get(caller);
  };
}

module.exports = { serve, fields, remembered };
