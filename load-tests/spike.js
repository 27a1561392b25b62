// What does a sudden crowd do? Calm load, then within a second twice the limit, then calm again:
// no call may be lost, and once the crowd has gone the others are as fast as before.
//
//   load-tests/run spike
//
// CALM (calls a second, 100), CROWD (2000), LIMIT of the instance (1000).

import { even, limit, send, slowest, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

const CALM_SECONDS = 10;
const CROWD_SECONDS = 10;
// For the bucket to fill, and for what is on its way.
const REST_SECONDS = 3;

const calm = Number(__ENV.CALM || 100);
const crowd = Number(__ENV.CROWD || 2 * limit);

export const options = {
  scenarios: {
    before: even(calm, `${CALM_SECONDS}s`),
    crowd: {
      executor: 'ramping-arrival-rate',
      startTime: `${CALM_SECONDS}s`,
      startRate: calm,
      timeUnit: '1s',
      preAllocatedVUs: 200,
      maxVUs: 1000,
      stages: [
        { target: crowd, duration: '1s' },
        { target: crowd, duration: `${CROWD_SECONDS}s` },
        { target: calm, duration: '1s' },
      ],
    },
    after: even(calm, `${CALM_SECONDS}s`, {
      startTime: `${CALM_SECONDS + CROWD_SECONDS + 2 + REST_SECONDS}s`,
    }),
  },
  summaryTrendStats: trendStats,
  thresholds: {
    ...thresholds,
    'weir_throttled{scenario:before}': ['count==0'],
    'weir_admitted{scenario:crowd}': [`count>=${Math.floor(0.95 * limit * CROWD_SECONDS)}`],
    'weir_throttled{scenario:crowd}': ['count>0'],
    'weir_throttled{scenario:after}': ['count==0'],
    'http_req_duration{scenario:before}': [slowest],
    'http_req_duration{scenario:crowd}': ['p(99)<1000'],
    'http_req_duration{scenario:after}': [slowest],
  },
};

export default function () {
  send();
}

export const handleSummary = summary('spike');
