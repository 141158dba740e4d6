// What is chosen is drawn, a moment after the last change; a newer wish ends the one before.
'use strict';

const find = (id) => document.getElementById(id);
const QUIET = 150; // ms without a change
const FIELDS = ['w', 'class', 'count', 'seed', 'sampler', 'steps', 'rule', 'options'];
let offer;
let current = null; // the AbortController of what is being drawn
let timer = 0; // of what will be drawn

function fill(select, entries, chosen) {
  find(select).replaceChildren(...entries.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

// 'interval:highest=5+rescale' is a name and the rest.
function split(spec) {
  const [, name, rest] = /^(\w*):?(.*)$/s.exec(spec);
  return [name, rest];
}

async function start() {
  const answer = await fetch('model');
  offer = await answer.json();
  if (offer.error) throw new Error(offer.error);
  document.title = `Guidance explorer: ${offer.name}`;
  find('title').textContent = offer.name;
  const { classes, size, most } = offer;
  find('about').textContent = `${classes.length} classes, ${size}x${size} pixels. Everything is drawn on the machine that this page comes from.`;
  find('picture').classList.toggle('pixels', size <= 64);
  fill('class', classes.map((name, i) => [String(i), name === String(i) ? name : `${i}: ${name}`]), '0');
  const [rule, options] = split(offer.guidance);
  fill('rule', offer.rules.map(({ name }) => [name, name]), rule);
  find('options').value = options;
  const samplers = offer.samplers.map(({ name }) => name);
  if (!samplers.includes(offer.sampler)) samplers.unshift(offer.sampler);
  fill('sampler', samplers.map((name) => [name, name]), offer.sampler);
  find('steps').value = offer.num_steps;
  find('steps').max = most.num_steps;
  [find('w').min, find('w').max] = [-most.w, most.w];
  find('slider').max = Math.min(most.w, Math.max(4, ...offer.w));
  find('w').value = find('slider').value = 1;
  describe();
  draw();
}

const chosen = () => [...find('class').selectedOptions];

// NaN, of a field without a number, becomes null, and the server says what it wants instead.
const number = (id) => find(id).valueAsNumber;

function wish() {
  const options = find('options').value.trim();
  const joint = !options || options.startsWith('+') ? '' : ':';
  return {
    labels: chosen().map(({ value }) => Number(value)),
    count: Number(find('count').value),
    seed: number('seed'),
    w: number('w'),
    guidance: find('rule').value + joint + options,
    sampler: find('sampler').value,
    num_steps: number('steps'),
  };
}

// The texts that follow from what is chosen.
function describe() {
  const w = number('w');
  find('scale').textContent = Number.isFinite(w) ? `s = 1 + w = ${Number((1 + w).toFixed(4))}` : '';
  const [sampler] = split(find('sampler').value);
  find('sampler-about').textContent = offer.samplers.find(({ name }) => name === sampler)?.about ?? '';
  const rule = offer.rules.find(({ name }) => name === find('rule').value);
  find('rule-about').textContent = rule?.about ?? '';
  const example = 'A modifier follows a plus: +interval:highest=5';
  find('options-about').textContent = rule?.options ? `By default ${rule.options}. ${example}` : `None of its own. ${example}`;
  const wished = wish();
  const each = Array.from({ length: wished.labels.length && wished.count }, (_, i) => wished.labels[i % wished.labels.length]);
  const labels = wished.labels.length === 1 ? `[${each[0]}] * ${wished.count}` : `[${each.join(', ')}]`;
  find('code').textContent =
    `model.sample(${labels}, w=${wished.w}, seed=${wished.seed},\n` +
    `    guidance='${wished.guidance}', sampler='${wished.sampler}', num_steps=${wished.num_steps})`;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

function summary(wished) {
  const names = chosen().map(({ text }) => text);
  const classes = names.length === 1 ? `class ${names[0]}` : `classes ${names.join(', ')} in turn`;
  return `${plural(wished.count, 'picture')} of ${classes}, w = ${wished.w}, seed ${wished.seed}, ${wished.guidance}, ${wished.sampler}, ${plural(wished.num_steps, 'step')}`;
}

function say(text, isError = false) {
  find('message').textContent = text;
  find('message').classList.toggle('error', isError);
}

function stage(text, step = null, of = 1) {
  find('stage').textContent = text;
  find('progress').max = of;
  if (step === null) find('progress').removeAttribute('value');
  else find('progress').value = step;
}

function busy(isBusy) {
  find('cancel').disabled = !isBusy;
  find('frame').classList.toggle('drawing', isBusy);
}

// The objects of an answer, one a line.
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const found = (rest + part.value).split('\n');
    rest = found.pop();
    for (const line of found) yield JSON.parse(line);
  }
  if (rest) yield JSON.parse(rest);
}

function show(event, text) {
  if (event.error) throw new Error(event.error);
  if (event.compiling) {
    stage('compiling');
    say('Compiling: once for each rule, sampler, number of steps and of pictures.');
  } else if (event.png) {
    stage(`step ${event.step} of ${event.of}`, event.step, event.of);
    find('picture').src = `data:image/png;base64,${event.png}`;
    find('picture').alt = text;
    find('caption').textContent = text;
    say('');
  } else if ('seconds' in event) {
    say(`Drawn in ${event.seconds} s${event.compiled ? ', compiling included' : ''}.`);
  }
}

async function draw() {
  timer = clearTimeout(timer);
  current?.abort();
  const mine = (current = new AbortController());
  const wished = wish();
  const text = summary(wished);
  busy(true);
  stage('waiting');
  try {
    const answer = await fetch('pictures', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(wished),
      signal: mine.signal,
    });
    for await (const event of lines(answer)) {
      if (mine !== current) return;
      show(event, text);
    }
  } catch (error) {
    if (mine === current) fail(error);
  } finally {
    if (mine === current) {
      current = null;
      busy(false);
    }
  }
}

function fail(error) {
  stage('', 0);
  if (error.name === 'AbortError') say('Cancelled.');
  else if (error instanceof TypeError) say('The server does not answer: does scripts/explore.py still run?', true);
  else say(`Not drawn: ${error.message}.`, true);
}

function changed() {
  describe();
  clearTimeout(timer);
  timer = setTimeout(draw, QUIET);
}

function cancel() {
  timer = clearTimeout(timer);
  current?.abort();
}

function newSeed() {
  find('seed').value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
  changed();
}

find('slider').addEventListener('input', () => {
  find('w').value = find('slider').value;
  changed();
});
find('w').addEventListener('input', () => {
  if (Number.isFinite(number('w'))) find('slider').value = number('w');
});
find('rule').addEventListener('input', () => { find('options').value = ''; });
// Room for each class that is chosen.
find('class').addEventListener('input', () => {
  const needed = chosen().length;
  const rooms = [...find('count').options].map(({ value }) => Number(value));
  if (Number(find('count').value) < needed) find('count').value = rooms.find((room) => room >= needed) ?? rooms.at(-1);
});
for (const id of FIELDS) find(id).addEventListener('input', changed);
find('new-seed').addEventListener('click', newSeed);
find('cancel').addEventListener('click', cancel);
find('wish').addEventListener('submit', (event) => {
  event.preventDefault();
  draw();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') cancel();
});
start().catch(fail);
