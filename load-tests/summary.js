// The outcome of a run as text, as JSON and as one HTML page that needs nothing from elsewhere.

const latencies = ['med', 'p(90)', 'p(99)', 'max'];

export const trendStats = ['med', 'p(90)', 'p(99)', 'max', 'count'];

function value(metrics, name, stat) {
  return metrics[name] ? metrics[name].values[stat] || 0 : 0;
}

function escaped(text) {
  return String(text).replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

function result(name, data) {
  const { metrics } = data;
  const thresholds = [];
  for (const [metric, { thresholds: conditions, values }] of Object.entries(metrics)) {
    for (const [condition, { ok }] of Object.entries(conditions || {})) {
      const measured = values[condition.match(/^[\w().]+/)[0]];
      thresholds.push({ metric, condition, measured, ok });
    }
  }
  const duration = Object.entries(metrics).filter(([metric]) =>
    metric.startsWith('http_req_duration')
  );
  return {
    name,
    date: new Date().toISOString(),
    passed: thresholds.every(({ ok }) => ok),
    seconds: data.state.testRunDurationMs / 1000,
    admitted: value(metrics, 'weir_admitted', 'count'),
    throttled: value(metrics, 'weir_throttled', 'count'),
    lost: value(metrics, 'weir_lost', 'count'),
    not_sent: value(metrics, 'dropped_iterations', 'count'),
    counters: Object.fromEntries(
      Object.entries(metrics)
        .filter(([metric]) => /^weir_.*\{/.test(metric))
        .map(([metric, { values }]) => [metric, values.count])
    ),
    latency_ms: Object.fromEntries(
      duration.map(([metric, { values }]) => [
        metric,
        Object.fromEntries(latencies.map((stat) => [stat, values[stat]])),
      ])
    ),
    // What a check is called, and how often it was not so.
    failed_checks: Object.fromEntries(
      data.root_group.checks.filter(({ fails }) => fails > 0).map(({ name, fails }) => [name, fails])
    ),
    thresholds,
  };
}

function number(amount) {
  if (amount === undefined) return '-';
  return Number.isInteger(amount) ? String(amount) : amount.toFixed(2);
}

function text(run) {
  const lines = [
    `${run.name}: ${run.passed ? 'passed' : 'FAILED'} after ${run.seconds.toFixed(1)} s`,
    `  admitted ${run.admitted}, throttled ${run.throttled}, lost ${run.lost}, ` +
      `not sent ${run.not_sent} (k6 had no time)`,
  ];
  for (const [metric, stats] of Object.entries(run.latency_ms)) {
    const row = latencies.map((stat) => `${stat} ${number(stats[stat])}`).join(', ');
    lines.push(`  ${metric}, ms: ${row}`);
  }
  for (const { metric, condition, measured, ok } of run.thresholds) {
    lines.push(`  ${ok ? 'ok    ' : 'BROKEN'} ${metric} ${condition} (${number(measured)})`);
  }
  for (const [check, fails] of Object.entries(run.failed_checks)) {
    lines.push(`  not so, ${fails} times: ${check}`);
  }
  return `\n${lines.join('\n')}\n`;
}

function row(cells, tag = 'td') {
  return `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
}

function bar(label, amount, most) {
  const width = most > 0 ? (100 * amount) / most : 0;
  return (
    `<tr><td>${escaped(label)}</td><td class="bar"><span style="width:${width.toFixed(1)}%">` +
    `</span></td><td>${number(amount)}</td></tr>`
  );
}

function html(run) {
  const counts = [
    ['admitted', run.admitted],
    ['throttled', run.throttled],
    ['lost', run.lost],
    ['not sent', run.not_sent],
  ];
  const most = Math.max(...counts.map(([, amount]) => amount));
  const parts = Object.entries(run.counters);
  const partsMost = Math.max(0, ...parts.map(([, amount]) => amount));
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>weir: ${escaped(run.name)}</title><style>
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 0 0 2em }
th, td { text-align: left; padding: .25em .6em; border-bottom: 1px solid #ddd }
td.bar { width: 45% } td.bar span { display: block; height: .9em; background: #4477aa }
.passed { color: #117733 } .failed { color: #aa3322 }
</style></head><body>
<h1>${escaped(run.name)}: <span class="${run.passed ? 'passed">passed' : 'failed">failed'}</span></h1>
<p>${escaped(run.date)}, ${run.seconds.toFixed(1)} s</p>
<h2>Calls</h2><table>
${counts.map(([label, amount]) => bar(label, amount, most)).join('\n')}
${parts.map(([label, amount]) => bar(label, amount, partsMost)).join('\n')}
</table>
<h2>Latency, milliseconds</h2><table>
${row(['of', ...latencies], 'th')}
${Object.entries(run.latency_ms)
  .map(([metric, stats]) => row([metric, ...latencies.map((stat) => number(stats[stat]))]))
  .join('\n')}
</table>
<h2>Thresholds</h2><table>
${row(['', 'metric', 'condition', 'measured'], 'th')}
${run.thresholds
  .map(({ metric, condition, measured, ok }) =>
    row([ok ? 'ok' : 'BROKEN', metric, condition, number(measured)])
  )
  .join('\n')}
</table>
${Object.entries(run.failed_checks)
  .map(([check, fails]) => `<p class="failed">Not so, ${fails} times: ${escaped(check)}</p>`)
  .join('\n')}
</body></html>
`;
}

export function summarised(name, folder, data) {
  const run = result(name, data);
  return {
    stdout: text(run),
    [`${folder}/${name}.json`]: `${JSON.stringify(run, null, 2)}\n`,
    [`${folder}/${name}.html`]: html(run),
  };
}
