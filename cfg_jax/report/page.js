// The page: what is chosen, and everything that follows it.

const data = JSON.parse(document.getElementById('data').textContent);
const find = (id) => document.getElementById(id);
const weights = [...new Set(data.runs.flatMap((run) => run.rows.map((row) => row.w)))].sort((a, b) => a - b);
const many = data.runs.length > 1;
const chosen = { index: 0, set: 0, class: '' };
const pictures = data.runs.map((run) => (run.sets.length ? new Pictures(run) : null));
const drawable = data.runs.filter((run) => run.sampling); // by a command
const charts = [];
const weightText = (w) => `w = ${w}`;

function make(name, text = '', attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function heading(level, run, number) {
  const made = make(`h${level}`);
  if (many) made.append(swatch(number));
  made.append(run.name);
  return made;
}

function swatch(number) {
  return make('span', '', { class: 'swatch', style: `background: ${colour(number)}`, 'aria-hidden': 'true' });
}

const rowOf = (run, w) => run.rows.findIndex((row) => row.w === w);

function fillHeader() {
  find('title').textContent = data.title;
  document.title = `Guidance sweep: ${data.title}`;
  for (const run of data.runs) {
    find('abouts').append(make('p', many ? `${run.name}: ${run.about}` : run.about));
  }
  for (const text of data.warnings) find('warnings').append(make('p', text));
}

function fillChoices() {
  find('w').max = weights.length - 1;
  find('w').disabled = weights.length < 2;
  // A run without classes has fewer.
  const sets = data.runs.map((run) => run.sets).reduce((a, b) => (b.length > a.length ? b : a));
  find('choices').hidden = !sets.length;
  sets.forEach((set, i) => find('set').append(make('option', set.title, { value: i })));
}

// The classes among the pictures of the chosen set.
function fillClasses() {
  const names = new Set(data.runs.flatMap((run) => run.sets[chosen.set]?.classes ?? []));
  const options = [...names].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  find('class').replaceChildren(make('option', 'all', { value: '' }), ...options.map((name) => make('option', name, { value: name })));
  find('class').disabled = names.size < 2;
  chosen.class = '';
}

function fillPictures() {
  data.runs.forEach((run, i) => {
    const block = make('div');
    if (many) block.append(heading(3, run, i));
    if (pictures[i]) block.append(pictures[i].cells);
    else block.append(make('p', 'No pictures: the model of this sweep was not there when the page was made.', { class: 'note' }));
    find('pictures').append(block);
  });
}

function points(run, x, y) {
  return run.rows
    .map((row) => {
      const value = (key) => (key === 'w' ? row.w : row.values[key]);
      return { x: value(x), y: value(y), ex: row.errors[x], ey: row.errors[y], w: row.w, text: weightText(row.w) };
    })
    .filter((p) => p.x != null && p.y != null);
}

function addChart(host, spec) {
  const chart = makeChart(spec);
  find(host).append(chart.figure);
  charts.push(chart);
}

function axisOf(key, values) {
  const metric = data.runs.flatMap((run) => run.metrics).find((m) => m.key === key);
  const positive = values.every((v) => v > 0);
  const wide = positive && Math.max(...values) / Math.min(...values) > 6;
  return { title: `${metric.heading} (${metric.higher ? 'higher' : 'lower'} is better)`, kind: wide ? 'log' : 'linear' };
}

// One metric against another, or against w, of all runs that have both.
function metricChart(x, y, title, host = 'curves') {
  const series = data.runs
    .map((run, i) => ({ name: run.name, colour: colour(i), marker: MARKERS[i % MARKERS.length], points: points(run, x, y) }))
    .filter((s) => s.points.length);
  if (!series.length) return;
  if (x === 'w') series.forEach((s) => s.points.forEach((p) => { p.text = ''; }));
  const values = (name) => series.flatMap((s) => s.points.map((p) => p[name]));
  addChart(host, {
    title, series, ends: series.length > 1, pick: chooseWeight,
    x: x === 'w' ? { title: 'guidance weight w', kind: 'weight', ticks: weights } : { ...axisOf(x, values('x')), kind: 'linear' },
    y: axisOf(y, values('y')),
  });
}

function fillCurves() {
  const metrics = new Map(data.runs.flatMap((run) => run.metrics).map((m) => [m.key, m]));
  // Runs may have distances of different features.
  const distances = new Set(data.runs.map((run) => run.metrics.find((m) => !m.higher)?.key).filter(Boolean));
  for (const key of metrics.has('is') ? distances : []) {
    metricChart('is', key, `${metrics.get(key).heading} against IS, along w`);
  }
  // Where IS is close to its limit the first curve turns vertical; against w nothing hides.
  if (metrics.has('is')) metricChart('w', 'is', 'IS against w');
  if (metrics.has('precision') && metrics.has('recall')) {
    metricChart('recall', 'precision', 'Precision against recall, along w', 'more');
  }
  const others = [...metrics.values()].filter((m) => m.key !== 'is');
  for (const { key, heading } of others) metricChart('w', key, `${heading} against w`, 'more');
  find('more-section').hidden = !others.length;
}

function fillTables() {
  data.runs.forEach((run, number) => {
    const table = make('table');
    find('tables').append(many ? heading(3, run, number) : make('h3', 'Every w'));
    const head = make('tr');
    const columns = ['w', 's = 1 + w', ...run.metrics.map((m) => m.heading), 'NFE'];
    for (const name of columns) {
      head.append(make('th', name, { scope: 'col', ...(name === columns[1] && { class: 'scale' }) }));
    }
    const body = make('tbody');
    for (const row of run.rows) {
      const line = make('tr', '', { 'data-w': row.w });
      line.append(make('th', row.w, { scope: 'row' }), make('td', row.s, { class: 'scale' }));
      for (const { key } of run.metrics) {
        line.append(make('td', row.cells[key], row.best.includes(key) ? { class: 'best' } : {}));
      }
      line.append(make('td', row.nfe ?? ''));
      line.addEventListener('click', () => chooseWeight(row.w));
      body.append(line);
    }
    const group = make('thead');
    group.append(head);
    table.append(group, body);
    const scroller = make('div', '', { class: 'table', role: 'region', tabindex: 0, 'aria-label': `table of ${run.name}` });
    scroller.append(table);
    find('tables').append(scroller);
    const bold = run.rows.some((row) => row.best.length) && 'the best in bold';
    const said = [run.errors, bold].filter(Boolean).join('; ');
    for (const note of [said, ...run.notes].filter(Boolean)) find('tables').append(make('p', note, { class: 'note' }));
  });
}

function fillTraining() {
  const trained = data.runs.map((run, number) => ({ run, number })).filter(({ run }) => run.training);
  // Sweeps of one model have one training.
  const seen = new Set();
  const distinct = trained.filter(({ run }) => {
    const key = JSON.stringify(run.training.curves);
    return !seen.has(key) && seen.add(key);
  });
  find('training-section').hidden = !distinct.length;
  const curve = (steps, values) => steps.map((x, i) => ({ x, y: values[i] })).filter((p) => p.y > 0);
  const spec = { x: { title: 'step', kind: 'linear' }, height: 260, ends: true };
  for (const [key, title] of [['loss', 'Loss'], ['grad_norm', 'Norm of the gradient']]) {
    const series = distinct
      .filter(({ run }) => run.training.curves[key])
      .map(({ run, number }) => ({ name: run.name, colour: colour(number), points: curve(run.training.steps, run.training.curves[key]) }));
    if (series.length) {
      addChart('training', { ...spec, title, series, ends: distinct.length > 1, y: { title: title.toLowerCase(), kind: 'log' } });
    }
  }
  for (const { run } of distinct) {
    const bins = run.training.bins;
    const series = bins.map((bin, i) => ({
      name: bin.title,
      colour: `oklch(0.62 0.14 ${270 - (220 * i) / Math.max(1, bins.length - 1)})`,
      points: curve(run.training.steps, bin.values),
    }));
    const title = `Loss by log-SNR${distinct.length > 1 ? `: ${run.name}` : ''}`;
    if (series.length) addChart('training', { ...spec, title, series, y: { title: 'loss', kind: 'log' } });
  }
}

function fillFacts() {
  data.runs.forEach((run, number) => {
    for (const place of ['cost', 'provenance']) {
      const block = make('div');
      if (many) block.append(heading(3, run, number));
      const list = make('dl');
      for (const [name, text] of run[place]) list.append(make('dt', name), make('dd', text));
      block.append(list);
      if (place === 'provenance') {
        const details = make('details');
        details.append(make('summary', 'Config'), make('pre', JSON.stringify(run.config, null, 1), { tabindex: 0 }));
        block.append(details);
      }
      find(place).append(block);
    }
  });
  if (data.command) find('commands').append(make('h3', 'This page'), make('pre', data.command));
  const title = make('h3', 'A picture at the chosen w');
  const command = make('pre', '', { id: 'sampling' });
  title.hidden = command.hidden = !drawable.length;
  find('commands').append(title, command);
}

function follow() {
  const w = weights[chosen.index];
  const text = weightText(w);
  const scale = Number((1 + w).toPrecision(12));
  find('w').value = chosen.index;
  find('w').setAttribute('aria-valuetext', `${text}, s = ${scale}`);
  find('w-text').textContent = `${text}  (s = ${scale})`;
  find('values').replaceChildren();
  data.runs.forEach((run, i) => {
    const row = rowOf(run, w);
    const line = make('div');
    if (many) line.append(swatch(i), make('span', run.name, { class: 'run' }));
    if (row < 0) line.append('not measured at this w');
    else {
      for (const { key, heading } of run.metrics) line.append(make('span', `${heading} ${run.rows[row].cells[key]}`));
    }
    find('values').append(line);
    pictures[i]?.show(row, text);
  });
  for (const chart of charts) chart.mark(w);
  for (const line of document.querySelectorAll('tbody tr')) {
    if (Number(line.dataset.w) === w) line.setAttribute('aria-current', 'true');
    else line.removeAttribute('aria-current');
  }
  const label = (run) => run.sets[chosen.set]?.labels[0] ?? 0;
  find('sampling').textContent = drawable
    .map((run) => `${run.sampling} --labels=${label(run)} --w=${w} --out=one.png`)
    .join('\n');
}

function chooseWeight(w) {
  chosen.index = weights.indexOf(w);
  follow();
}

function chooseSet(number) {
  chosen.set = number;
  fillClasses();
  pictures.forEach((each) => each?.choose(number));
  follow();
}

// Arrow keys anywhere move the slider, but where they have a meaning of their own.
function moveByKey(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest('input, select, .table, pre')) return;
  event.preventDefault();
  chosen.index = Math.max(0, Math.min(weights.length - 1, chosen.index + step));
  follow();
}

const THEMES = [['', 'as the system'], ['light', 'light'], ['dark', 'dark']];

function nextTheme() {
  const now = THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? ''));
  const [name, text] = THEMES[(now + 1) % THEMES.length];
  document.documentElement.dataset.theme = name;
  find('theme').textContent = `Colours: ${text}`;
}

fillHeader();
fillChoices();
fillPictures();
fillCurves();
fillTables();
fillTraining();
fillFacts();
find('w').addEventListener('input', (event) => { chosen.index = Number(event.target.value); follow(); });
find('set').addEventListener('change', (event) => chooseSet(Number(event.target.value)));
find('class').addEventListener('change', (event) => pictures.forEach((each) => each?.filter(event.target.value)));
find('theme').addEventListener('click', nextTheme);
document.addEventListener('keydown', moveByKey);
chooseSet(0);
// Decoded before they are asked for, so that the slider is quick.
setTimeout(() => pictures.forEach((each) => each?.decodeAll()), 100);
