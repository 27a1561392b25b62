// What the scripts share: where to send, one call with its verdict, thresholds, and the summary.

import http from 'k6/http';
import { check } from 'k6';
import { Counter } from 'k6/metrics';
import { signed } from './signature.js';
import { summarised } from './summary.js';

export const endpoint = (__ENV.ENDPOINT || 'http://127.0.0.1:8080').replace(/\/$/, '');
export const instance = __ENV.INSTANCE || 'post-cn-demo0000001';
export const topic = __ENV.TOPIC || 'TopicA';
// Tokens a second of the instance, and what its bucket holds: as weir is configured.
export const limit = Number(__ENV.LIMIT || 1000);
export const burst = Number(__ENV.BURST || 100);

// For machines that do other things besides: how slow the slowest in a hundred may be, and how many
// calls k6 may fail to send in time.
export const slowest = `p(99)<${Number(__ENV.P99_MS || 250)}`;
export const allSent = `count<=${Number(__ENV.NOT_SENT_MAX || 0)}`;

// Every call is one of these.
const admitted = new Counter('weir_admitted');
const throttled = new Counter('weir_throttled');
const lost = new Counter('weir_lost');

http.setResponseCallback(http.expectedStatuses(200, 429));

// Thresholds no run may break: whatever is not admitted is throttled, and each answer is whole.
export const thresholds = {
  checks: ['rate==1'],
  weir_lost: ['count==0'],
};

// Sends one message, judges and counts its answer. `tags` go to counters and latencies.
export function send(to = instance, tags = {}) {
  const call = signed(endpoint, {
    InstanceId: to,
    MqttTopic: topic,
    Payload: 'aGVsbG8gZnJvbSBrNg==',
  });
  // One name, or every query would be a metric of its own.
  const answer = http.post(call.url, null, {
    headers: call.headers,
    tags: { ...tags, name: 'SendMessage' },
    timeout: '30s',
  });
  if (answer.status === 200) {
    admitted.add(1, tags);
    check(answer, {
      'a 200 carries a MsgId': (r) => /"MsgId":"[0-9A-F]{32}"/.test(r.body),
      'a 200 tells the quota': (r) => /r=\d+/.test(r.headers['Ratelimit']),
    });
  } else if (answer.status === 429) {
    throttled.add(1, tags);
    check(answer, {
      'a 429 is Throttling.User': (r) => r.body.includes('"Code":"Throttling.User"'),
      'a 429 has Retry-After': (r) => Number(r.headers['Retry-After']) >= 1,
      'a 429 has x-acs-retry-after': (r) => Number(r.headers['X-Acs-Retry-After']) >= 1,
      'a 429 has x-ratelimit-user-api': (r) =>
        /^Limit:\d+,Remain:0,TimeLeft:\d+,Reset:/.test(r.headers['X-Ratelimit-User-Api']),
      'a 429 tells that nothing is left': (r) => /r=0;/.test(r.headers['Ratelimit']),
    });
  } else {
    lost.add(1, tags);
    const why = answer.error || answer.body;
    console.error(`lost: ${answer.status} ${why} ${new Date().toISOString()}`);
  }
  return answer;
}

// A scenario of even arrivals, with connections enough for answers that take 250 ms.
export function even(rate, duration, more = {}) {
  return {
    executor: 'constant-arrival-rate',
    rate,
    timeUnit: '1s',
    duration,
    preAllocatedVUs: Math.max(10, Math.ceil(rate / 20)),
    maxVUs: Math.max(50, Math.ceil(rate / 4)),
    ...more,
  };
}

// Seconds of a duration such as 90s, 5m or 1h30m.
export function seconds(text) {
  const units = { h: 3600, m: 60, s: 1 };
  const parts = [...text.matchAll(/(\d+)([hms])/g)];
  if (parts.length === 0 || parts.map((part) => part[0]).join('') !== text) {
    throw new Error(`${text} is no duration: write 90s, 5m or 1h30m`);
  }
  return parts.reduce((sum, [, number, unit]) => sum + Number(number) * units[unit], 0);
}

// What a script exports as handleSummary: text on the terminal, NAME.json and NAME.html in OUT.
export function summary(name) {
  return (data) => summarised(name, __ENV.OUT || '.', data);
}
