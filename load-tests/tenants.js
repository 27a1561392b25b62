// Does one noisy customer harm the others? 100 instances: 99 quiet ones, and one that sends ten
// times its limit. The quiet ones are never refused and stay fast; the noisy one gets its limit.
//
//   load-tests/run tenants
//
// INSTANCES (100), LIMIT of each as configured (100), QUIET (calls a second of all quiet ones
// together, 400), DURATION (30s). Instances count up from post-cn-load000001.

import exec from 'k6/execution';
import { burst, even, limit, seconds, send, slowest, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

const instances = Number(__ENV.INSTANCES || 100);
const duration = __ENV.DURATION || '30s';
const quiet = Number(__ENV.QUIET || 400);
const quota = limit * seconds(duration);

export const options = {
  scenarios: {
    quiet: even(quiet, duration, { exec: 'quietly' }),
    noisy: even(10 * limit, duration, { exec: 'noisily' }),
  },
  summaryTrendStats: trendStats,
  thresholds: {
    ...thresholds,
    'weir_admitted{scenario:quiet}': [`count>=${Math.floor(quiet * seconds(duration) * 0.99)}`],
    'weir_throttled{scenario:quiet}': ['count==0'],
    'http_req_duration{scenario:quiet}': [slowest],
    'weir_admitted{scenario:noisy}': [
      `count>=${Math.floor(quota * 0.99)}`,
      `count<=${Math.ceil(quota * 1.01) + burst}`,
    ],
    'weir_throttled{scenario:noisy}': ['count>0'],
  },
};

function id(number) {
  return `post-cn-load${String(number).padStart(6, '0')}`;
}

export function quietly() {
  send(id(2 + (exec.scenario.iterationInTest % (instances - 1))));
}

export function noisily() {
  send(id(1));
}

export const handleSummary = summary('tenants');
