// Does anything grow? Even load for an hour below the limit, while the ops port is asked every ten
// seconds what weir holds: memory, file descriptors, the backlog of delivery, and the ledger's lag.
//
//   load-tests/run soak
//
// RATE (calls a second, 500), DURATION (1h), OPS (http://127.0.0.1:8081), OPS_TOKEN if it needs
// one, RSS_MAX (bytes of memory, 512 MiB).

import http from 'k6/http';
import { check } from 'k6';
import { Gauge } from 'k6/metrics';
import { even, send, slowest, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

const ops = __ENV.OPS || 'http://127.0.0.1:8081';
const duration = __ENV.DURATION || '1h';
const memory = new Gauge('held_memory_bytes');
const descriptors = new Gauge('held_descriptors');
const backlog = new Gauge('held_backlog_messages');
const lag = new Gauge('held_ledger_lag_messages');

export const options = {
  scenarios: {
    even: even(Number(__ENV.RATE || 500), duration),
    watch: {
      executor: 'constant-arrival-rate',
      exec: 'watch',
      rate: 6,
      timeUnit: '1m',
      duration,
      preAllocatedVUs: 1,
    },
  },
  summaryTrendStats: trendStats,
  thresholds: {
    ...thresholds,
    weir_throttled: ['count==0'],
    'http_req_duration{name:SendMessage}': [slowest],
    // The largest of all samples, and the last one.
    held_memory_bytes: [`value<${Number(__ENV.RSS_MAX || 512 * 1024 * 1024)}`],
    held_descriptors: ['value<2000'],
    held_backlog_messages: ['value<5000'],
    held_ledger_lag_messages: ['value<5000'],
  },
};

export default function () {
  send();
}

// The sum of a family's series, or undefined if it has none.
function sum(text, family) {
  const lines = text.split('\n').filter((line) => /^[a-z_]+/.exec(line)?.[0] === family);
  return lines.length === 0
    ? undefined
    : lines.reduce((total, line) => total + Number(line.split(' ').pop()), 0);
}

export function watch() {
  const headers = __ENV.OPS_TOKEN ? { Authorization: `Bearer ${__ENV.OPS_TOKEN}` } : {};
  const answer = http.get(`${ops}/metrics`, { headers, tags: { name: 'metrics' } });
  const found = {
    process_resident_memory_bytes: memory,
    process_open_fds: descriptors,
    weir_delivery_backlog_messages: backlog,
    weir_ledger_lag_messages: lag,
  };
  for (const [family, gauge] of Object.entries(found)) {
    const held = answer.status === 200 ? sum(answer.body, family) : undefined;
    check(held, { [`the ops port tells ${family}`]: (amount) => amount !== undefined });
    if (held !== undefined) gauge.add(held);
  }
}

export const handleSummary = summary('soak');
