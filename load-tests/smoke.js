// A minute of even load on one instance: every call signed V3 as the official SDKs sign it, every
// answer checked. Run beside a weir:
//
//   ALIBABA_CLOUD_ACCESS_KEY_ID=… ALIBABA_CLOUD_ACCESS_KEY_SECRET=… k6 run load-tests/smoke.js
//
// RATE (calls a second, 500), DURATION (1m), ENDPOINT, INSTANCE and TOPIC may be set with -e.

import http from 'k6/http';
import { check } from 'k6';
import { signed } from './signature.js';

const endpoint = __ENV.ENDPOINT || 'http://127.0.0.1:8080';
const instance = __ENV.INSTANCE || 'post-cn-demo0000001';
const topic = __ENV.TOPIC || 'TopicA';

export const options = {
  scenarios: {
    even: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 500),
      timeUnit: '1s',
      duration: __ENV.DURATION || '1m',
      preAllocatedVUs: 50,
      maxVUs: 500,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    dropped_iterations: ['count==0'],
    http_req_duration: ['p(99)<250'],
  },
};

export default function () {
  const call = signed(endpoint, {
    InstanceId: instance,
    MqttTopic: topic,
    Payload: 'aGVsbG8gZnJvbSBrNg==',
  });
  const answer = http.post(call.url, null, { headers: call.headers });
  check(answer, {
    'status is 200': (r) => r.status === 200,
    'MsgId is 32 upper hex digits': (r) => /^[0-9A-F]{32}$/.test(r.json('MsgId')),
    'the quota is told': (r) => r.headers['Ratelimit'] !== undefined,
  });
}
