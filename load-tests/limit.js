// Does the limit hold, and how are the others told? Even load at 0.5, 1, 2 and 10 times an
// instance's limit, one after the other, with pauses in which its bucket fills.
//
//   load-tests/run limit
//
// STEPS (0.5,1,2,10), DURATION of each (30s), LIMIT and BURST as the instance has them (1000, 100).
//
// A step must admit min(rate, limit) * duration messages within 1 %, and at most a full bucket more;
// everything else must be a 429 with all its headers. k6 needs a processor for every 2,000 or so a
// second: where it cannot send them all (not_sent), a step that still offers more than the limit
// holds the limit all the same.

import { burst, even, limit, seconds, send, summary, thresholds } from './weir.js';
import { trendStats } from './summary.js';

const PAUSE_SECONDS = 3;
const TOLERANCE = 0.01;

const duration = __ENV.DURATION || '30s';
const steps = (__ENV.STEPS || '0.5,1,2,10').split(',').map(Number);

const conditions = { ...thresholds };
const scenarios = {};
steps.forEach((factor, index) => {
  const rate = Math.round(factor * limit);
  const name = `times_${String(factor).replace('.', '_')}`;
  const startTime = `${index * (seconds(duration) + PAUSE_SECONDS)}s`;
  scenarios[name] = even(rate, duration, { startTime, tags: { step: name } });
  const expected = Math.min(rate, limit) * seconds(duration);
  conditions[`weir_admitted{scenario:${name}}`] = [
    `count>=${Math.floor(expected * (1 - TOLERANCE))}`,
    `count<=${Math.ceil(expected * (1 + TOLERANCE)) + burst}`,
  ];
  conditions[`weir_throttled{scenario:${name}}`] = [factor > 1 ? 'count>0' : 'count>=0'];
  if (factor < 1) {
    conditions[`weir_throttled{scenario:${name}}`] = ['count==0'];
  }
  conditions[`http_req_duration{scenario:${name}}`] = ['p(99)<1000'];
});

export const options = { scenarios, summaryTrendStats: trendStats, thresholds: conditions };

export default function () {
  send();
}

export const handleSummary = summary('limit');
