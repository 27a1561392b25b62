// Is it right at all? A minute of even load on one instance, every call signed V3 as the official
// SDKs sign it, every answer checked and none refused.
//
//   load-tests/run smoke
//
// RATE (calls a second, 500) and DURATION (1m).

import { allSent, even, send, slowest, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

export const options = {
  scenarios: { even: even(Number(__ENV.RATE || 500), __ENV.DURATION || '1m') },
  summaryTrendStats: trendStats,
  thresholds: {
    ...thresholds,
    weir_admitted: ['count>0'],
    weir_throttled: ['count==0'],
    dropped_iterations: [allSent],
    http_req_duration: [slowest],
  },
};

export default function () {
  send();
}

export const handleSummary = summary('smoke');
