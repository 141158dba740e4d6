// A chart as SVG: axes, lines with error bars, direct labels, and a ring on what is chosen.

const SVG = 'http://www.w3.org/2000/svg';
const MARKERS = ['circle', 'square', 'diamond', 'triangle', 'circle', 'square'];

function element(name, attributes = {}, text = '') {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== '') made.textContent = text;
  return made;
}

const colour = (number) => `var(--s${number % 6})`;

// Round numbers from low to high, about `count` of them.
function linearTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const few = high / low > 300 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let e = first; e <= last; e++) ticks.push(...few.map((m) => Number((m * 10 ** e).toPrecision(3))));
  const inside = ticks.filter((t) => t >= low && t <= high);
  return inside.length > 1 ? inside : linearTicks(low, high, 3);
}

// kind: linear, log, or weight, which is linear near 0 and logarithmic above the least weight.
function makeScale(axis, values, from, to) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  // What is as good as equal would fill the axis with its last digits.
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (!(high - low > 1e-4 * size)) [low, high] = [low - (size || 1) * 0.1, high + (size || 1) * 0.1];
  const unit = Math.min(...values.filter((v) => v > 0), 1);
  const forward = { linear: (v) => v, log: Math.log, weight: (v) => Math.asinh(v / unit) }[axis.kind];
  const [a, b] = [forward(low), forward(high)];
  const pad = (b - a) * 0.07;
  const at = (v) => from + ((forward(v) - a + pad) / (b - a + 2 * pad)) * (to - from);
  const inside = (v) => (at(v) - from) * (at(v) - to) <= 1e-6;
  const count = Math.max(3, Math.round(Math.abs(to - from) / (2 * axis.space)));
  let ticks = axis.ticks;
  if (!ticks && axis.kind === 'log') ticks = logTicks(low / 1.2, high * 1.2);
  if (!ticks) ticks = linearTicks(low - (high - low) * 0.07, high + (high - low) * 0.07, count);
  const spaced = [];
  for (const t of ticks.filter(inside)) {
    if (!spaced.length || Math.abs(at(t) - at(spaced.at(-1))) > axis.space) spaced.push(t);
  }
  return { at, ticks: spaced };
}

function tickText(value) {
  const size = Math.abs(value);
  if (size >= 10000) return value.toLocaleString('en', { notation: 'compact' });
  if (size !== 0 && size < 0.001) return value.toExponential(0);
  return String(Number(value.toPrecision(5)));
}

// Places for texts that hide neither points nor each other; what finds no place is left out.
class Places {
  constructor(left, top, right, bottom) {
    this.area = [left, top, right, bottom];
    this.taken = [];
  }
  take(x0, y0, x1, y1) { this.taken.push([x0, y0, x1, y1]); }
  // A line, as small boxes every few pixels.
  along(x0, y0, x1, y1) {
    const count = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 6);
    for (let i = 0; i <= count; i++) {
      const [x, y] = [x0 + ((x1 - x0) * i) / count, y0 + ((y1 - y0) * i) / count];
      this.take(x - 1, y - 1, x + 1, y + 1);
    }
  }
  free(x0, y0, x1, y1) {
    const [left, top, right, bottom] = this.area;
    if (x0 < left || y0 < top || x1 > right || y1 > bottom) return false;
    return this.taken.every(([a, b, c, d]) => x1 < a || x0 > c || y1 < b || y0 > d);
  }
  find(x, y, text) {
    const width = 6.6 * text.length;
    for (const [dx, dy] of [[9, -6], [9, 14], [-9 - width, -6], [-9 - width, 14], [-width / 2, -10], [-width / 2, 20]]) {
      const box = [x + dx, y + dy - 10, x + dx + width, y + dy + 2];
      if (this.free(...box)) {
        this.take(...box);
        return [x + dx, y + dy];
      }
    }
    return null;
  }
}

function markerShape(kind, x, y, r) {
  if (kind === 'circle') return element('circle', { cx: x, cy: y, r });
  const d = {
    square: `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    diamond: `M${x},${y - 1.4 * r}L${x + 1.4 * r},${y}L${x},${y + 1.4 * r}L${x - 1.4 * r},${y}z`,
    triangle: `M${x},${y - 1.3 * r}L${x + 1.3 * r},${y + r}H${x - 1.3 * r}z`,
  }[kind];
  return element('path', { d });
}

// spec: title, x and y {title, kind, ticks}, series [{name, colour, marker, points}], ends (names
// stand at the ends of lines), pick(w). Points: {x, y, ex, ey, w, text}. Returns {figure, mark(w)}.
function makeChart(spec) {
  const figure = document.createElement('figure');
  figure.className = 'chart';
  const caption = document.createElement('figcaption');
  caption.textContent = spec.title;
  figure.append(caption);
  let marked = null;
  let rings = [];

  function draw(width) {
    const height = spec.height || 290;
    const box = { right: width - (spec.ends ? 96 : 12), top: 8, bottom: height - 40 };
    const svg = element('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': spec.title });
    const all = spec.series.flatMap((s) => s.points);
    const spread = (v, e) => (e ? [v - e, v + e] : [v]);
    const positive = (axis) => (v) => axis.kind !== 'log' || v > 0;
    const xs = all.flatMap((p) => spread(p.x, p.ex)).filter(positive(spec.x));
    const ys = all.flatMap((p) => spread(p.y, p.ey)).filter(positive(spec.y));
    if (!xs.length) return svg;
    const y = makeScale({ space: 20, ...spec.y }, ys, box.bottom, box.top);
    box.left = 28 + 6.5 * Math.max(1, ...y.ticks.map((t) => tickText(t).length));
    const x = makeScale({ space: 32, ...spec.x }, xs, box.left, box.right);
    axes(svg, box, x, y, height);
    const places = new Places(box.left, box.top, box.right, box.bottom);
    for (const p of all) places.take(x.at(p.x) - 5, y.at(p.y) - 5, x.at(p.x) + 5, y.at(p.y) + 5);
    for (const { points } of spec.series) {
      points.slice(1).forEach((p, i) => places.along(x.at(points[i].x), y.at(points[i].y), x.at(p.x), y.at(p.y)));
    }
    const ends = [];
    spec.series.forEach((s) => {
      const group = series(svg, s, x, y, box);
      if (!s.points.length) return;
      for (const p of s.points) {
        const place = p.text && places.find(x.at(p.x), y.at(p.y), p.text);
        if (place) group.append(element('text', { x: place[0], y: place[1], class: 'halo' }, p.text));
      }
      const last = s.points.at(-1);
      ends.push({ name: s.name, colour: s.colour, y: y.at(last.y), x: x.at(last.x) });
    });
    if (spec.ends) endNames(svg, ends, box);
    rings = spec.series.map((s) => {
      const ring = element('circle', { class: 'ring', r: 9, visibility: 'hidden' });
      svg.append(ring);
      return { ring, points: s.points, x, y };
    });
    return svg;
  }

  function axes(svg, box, x, y, height) {
    for (const t of x.ticks) {
      svg.append(element('line', { class: 'grid', x1: x.at(t), x2: x.at(t), y1: box.top, y2: box.bottom }));
      svg.append(element('text', { class: 'tick', x: x.at(t), y: box.bottom + 15, 'text-anchor': 'middle' }, tickText(t)));
    }
    for (const t of y.ticks) {
      svg.append(element('line', { class: 'grid', x1: box.left, x2: box.right, y1: y.at(t), y2: y.at(t) }));
      svg.append(element('text', { class: 'tick', x: box.left - 6, y: y.at(t) + 4, 'text-anchor': 'end' }, tickText(t)));
    }
    svg.append(element('text', { x: (box.left + box.right) / 2, y: height - 6, 'text-anchor': 'middle' }, spec.x.title));
    const middle = (box.top + box.bottom) / 2;
    svg.append(element('text', { x: 12, y: middle, 'text-anchor': 'middle', transform: `rotate(-90 12 ${middle})` }, spec.y.title));
  }

  function series(svg, s, x, y, box) {
    const group = element('g', { class: 'points' });
    const path = s.points.map((p, i) => `${i ? 'L' : 'M'}${x.at(p.x).toFixed(1)},${y.at(p.y).toFixed(1)}`).join('');
    group.append(element('path', { d: path, fill: 'none', stroke: s.colour, 'stroke-width': s.marker ? 2 : 1.6, 'stroke-linejoin': 'round' }));
    for (const p of s.marker ? s.points : []) {
      const clamp = (v, a, b) => Math.max(Math.min(a, b), Math.min(Math.max(a, b), v));
      const bar = { stroke: s.colour, 'stroke-width': 1.4, opacity: 0.75 };
      const low = spec.y.kind === 'log' && p.ey >= p.y ? box.bottom : y.at(p.y - (p.ey || 0));
      if (p.ey) group.append(element('line', { ...bar, x1: x.at(p.x), x2: x.at(p.x), y1: clamp(low, box.top, box.bottom), y2: y.at(p.y + p.ey) }));
      if (p.ex) group.append(element('line', { ...bar, x1: x.at(p.x - p.ex), x2: x.at(p.x + p.ex), y1: y.at(p.y), y2: y.at(p.y) }));
      const shape = markerShape(s.marker, x.at(p.x), y.at(p.y), 4.5);
      shape.setAttribute('fill', s.colour);
      shape.append(element('title', {}, `${s.name}: w = ${p.w}`));
      shape.addEventListener('click', () => spec.pick(p.w));
      group.append(shape);
    }
    svg.append(group);
    return group;
  }

  function endNames(svg, ends, box) {
    ends.sort((a, b) => a.y - b.y);
    const gap = 13;
    ends.forEach((end, i) => { end.text = i ? Math.max(end.y, ends[i - 1].text + gap) : Math.max(end.y, box.top + 6); });
    for (let i = ends.length - 1; i >= 0; i--) {
      ends[i].text = Math.min(ends[i].text, i === ends.length - 1 ? box.bottom : ends[i + 1].text - gap);
    }
    for (const end of ends) {
      const name = end.name.length > 14 ? `${end.name.slice(0, 13)}…` : end.name;
      svg.append(element('line', { x1: end.x + 3, x2: box.right + 8, y1: end.y, y2: end.text, stroke: end.colour, 'stroke-width': 1, opacity: 0.6 }));
      svg.append(element('text', { class: 'tick', x: box.right + 11, y: end.text + 4 }, name));
    }
  }

  function mark(w) {
    marked = w;
    for (const { ring, points, x, y } of rings) {
      const point = points.find((p) => p.w === w);
      ring.setAttribute('visibility', point ? 'visible' : 'hidden');
      if (point) {
        ring.setAttribute('cx', x.at(point.x));
        ring.setAttribute('cy', y.at(point.y));
      }
    }
  }

  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (!width || width === drawn) return;
    drawn = width;
    figure.querySelector('svg')?.remove();
    figure.append(draw(width));
    if (marked !== null) mark(marked);
  }).observe(figure);
  return { figure, mark };
}
