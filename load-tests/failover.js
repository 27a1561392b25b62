// What is lost when replicas go? Even load through haproxy on three replicas: each is drained and
// started again in turn, and one is killed.
//
//   load-tests/run failover
//
// `run` starts the replicas and haproxy, ends them on time, and says by KILL_AT (milliseconds since
// 1970) when it kills. Until a second before that not one call may fail. A kill may cost what was on
// its way, LOST_MAX (100) at most.
//
// RATE (calls a second, 1500) and DURATION (60s).

import { even, send, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

const killAt = Number(__ENV.KILL_AT || Infinity);

export const options = {
  scenarios: { even: even(Number(__ENV.RATE || 1500), __ENV.DURATION || '60s') },
  summaryTrendStats: trendStats,
  thresholds: {
    checks: thresholds.checks,
    weir_throttled: ['count==0'],
    'weir_admitted{phase:drains}': ['count>0'],
    'weir_lost{phase:drains}': ['count==0'],
    'weir_lost{phase:kill}': [`count<=${Number(__ENV.LOST_MAX || 100)}`],
    http_req_duration: ['p(99)<1000'],
  },
};

export default function () {
  send(undefined, { phase: Date.now() < killAt - 1000 ? 'drains' : 'kill' });
}

export const handleSummary = summary('failover');
