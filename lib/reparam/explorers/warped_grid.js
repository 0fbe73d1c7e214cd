// Chapter 6: a grid under one planar or radial layer; where it folds, and what density does.
const W = [1.2, 0.9], NORM = 1.5, CENTER = [-0.4, 0.4];
// How far to the right the handle is for each unit of w·u or β.
const ALONG = W[0] / NORM ** 2;
// Half the side of the grid and of the picture; what the profile shows; parts of a cell's side.
const GRID = 2.4, FRAME = 3.7, PROFILE = 3, PARTS = 20;
const sig = (x) => x.toPrecision(3);
const normal = ([a, b]) => Math.exp(-(a * a + b * b) / 2) / (2 * Math.PI);
// Of a quadrilateral, by its diagonals.
const area = ([a, b, c, d]) => Math.abs((c[0] - a[0]) * (d[1] - b[1]) - (c[1] - a[1]) * (d[0] - b[0])) / 2;

// Both layers move a point along one line: t on it becomes g(t), with the slope 1 + s at t = 0.
// s is w·u or β (α is 1); made invertible as the library does it, it is expm1(asinh(s)) > -1.
const LAYERS = {
  planar(s, across, factor) {
    const u = [0, 1].map((i) => (s * W[i]) / NORM ** 2 + (factor * across * [-W[1], W[0]][i]) / NORM);
    const coordinate = ([a, b]) => W[0] * a + W[1] * b;
    const slope = (t) => 1 + s / Math.cosh(t) ** 2;
    return {
      u, coordinate, slope, g: (t) => t + s * Math.tanh(t),
      image: (z) => z.map((v, i) => v + u[i] * Math.tanh(coordinate(z))),
      det: (z) => slope(coordinate(z)),
      source: (y, t) => y.map((v, i) => v - u[i] * Math.tanh(t)),
    };
  },
  radial(s) {
    const away = ([a, b]) => [a - CENTER[0], b - CENTER[1]];
    const coordinate = ([a, b]) => Math.sqrt((a - CENTER[0]) ** 2 + (b - CENTER[1]) ** 2);
    const slope = (t) => 1 + s / (1 + Math.abs(t)) ** 2;
    const stretch = (t) => 1 + s / (1 + Math.abs(t));
    return {
      u: [s * ALONG, 0], coordinate, slope, g: (t) => t * stretch(t),
      image: (z) => away(z).map((v, i) => CENTER[i] + v * stretch(coordinate(z))),
      det: (z) => slope(coordinate(z)) * stretch(coordinate(z)),
      source: (y, t) => away(y).map((v, i) => CENTER[i] + v / stretch(t)),
    };
  },
};

function model(state) {
  const planar = state.layer === "planar", raw = state.pull;
  const x = Math.asinh(raw), safe = state.safe === "yes";
  const s = safe ? Math.expm1(x) : raw;
  const make = LAYERS[state.layer];
  const layer = make(s, state.across, safe ? 1 + Math.tanh(x / 2) : 1);
  const { image, det, g, coordinate, source } = layer;
  const n = state.cells, side = (2 * GRID) / n;
  const formula = (z) => normal(z) / Math.abs(det(z));
  // n × n cells from a corner on: their images, and what the formula says at their middles.
  const mesh = (a, b, size, n) => {
    const rows = range(n + 1).map((j) => range(n + 1).map((i) => image([a + i * size, b + j * size])));
    return range(n * n).map((k) => {
      const i = k % n, j = (k - i) / n, middle = [a + (i + 0.5) * size, b + (j + 0.5) * size];
      return { quad: [rows[j][i], rows[j][i + 1], rows[j + 1][i + 1], rows[j + 1][i]], det: det(middle), density: formula(middle), start: normal(middle) };
    });
  };
  const cells = mesh(-GRID, -GRID, side, n), part = side / PARTS, parts = mesh(0, side, part, PARTS);
  const sum = (f) => parts.reduce((total, p) => total + f(p), 0);
  const now = sum((p) => area(p.quad)), mass = sum((p) => area(p.quad) * p.density), before = sum((p) => p.start) * part ** 2;
  const areas = [side ** 2, now], densities = [before / areas[0], mass / now];
  const middle = [side / 2, 1.5 * side], t = coordinate(middle), y = image(middle);
  // Where its middle lands, what else lands: the roots of g(t) = g(middle), one between two of a fine grid.
  const ends = range(601).map((i) => (i - 300.5) / 50);
  const sources = ends.slice(1).flatMap((right, i) => {
    let left = ends[i];
    const miss = (v) => g(v) - g(t), rising = miss(right) > 0;
    if (rising === miss(left) > 0) return [];
    for (let j = 0; j < 50; j++) {
      const half = (left + right) / 2;
      if (miss(half) > 0 === rising) right = half; else left = half;
    }
    return [{ t: right, density: formula(source(y, right)) }];
  });
  return {
    state, planar, raw, s, safe, layer, arm: make(raw, state.across, 1).u, n, side, cells, t, y, sources,
    point: { formula: formula(middle), truth: sources.reduce((total, v) => total + v.density, 0) },
    areas, densities,
    rows: [["area", ...areas.map(sig)], ["mean density", ...densities.map(sig)], ["area × density", before.toPrecision(2), mass.toPrecision(2)]],
    turned: cells.filter((c) => c.det < 0).length, folded: s < -1, seen: state.seen === "yes",
    sign: planar ? "w·u" : "β",
  };
}


function layout({ width, font, room }, view) {
  const narrow = width < 34 * font;
  const f = narrow ? Math.min(font, 13) : font;
  const left = f * 1.8, top = f * (narrow ? 5.4 : 4), under = f * 1.5;
  const size = narrow ? Math.min(width - left - 6, room ? room * 0.5 : 400) : Math.min(width * 0.5, room ? room - top - under : 440);
  const bottom = top + size;
  const tall = narrow ? Math.min(size, 170) : Math.min(size * 0.56, width - size - left - f * 4);
  const lines = narrow ? bottom + under + f * 1.4 : bottom - f * 4.6;
  const start = narrow ? lines + f * 6.4 : top;
  const from = narrow ? left : left + size + f * 3;
  const x = scale(-FRAME, FRAME, left, left + size), y = scale(-FRAME, FRAME, bottom, top);
  // The handle hangs on a point of the line w·z = 0 that the grid leaves free.
  const base = [1.92, -2.56], tip = [base[0] + view.arm[0], base[1] + view.arm[1]];
  return {
    width, font: f, narrow, left, top, size, bottom, lines, x, y, base, tip,
    box: [from, start, from + (narrow ? size : Math.min(width - from - 4, tall * 1.3)), start + tall],
    height: (narrow ? start + tall : bottom) + under + 4,
    value: (px) => (scale(left, left + size, -FRAME, FRAME)(px) - tip[0]) / ALONG + view.raw,
  };
}

const handles = ({ sign, raw }, { x, y, tip, value }) => [
  { key: "pull", x: x(tip[0]), y: y(tip[1]), value, shape: "dot", kind: "red", label: "w·u or β", text: `${sign} = ${fix(raw, 2)}` },
];

function draw(view, l) {
  const { state, layer, planar, side } = view, { font, narrow, left, top, size, bottom, x, y, base, tip, lines } = l;
  const out = [];
  const loop = (points) => "M" + points.map(([a, b]) => `${at(x(a))} ${at(y(b))}`).join("L") + "Z";
  out.push('<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="red" d="M0 0V6"/></pattern>');
  out.push(text(0, font, `${view.n} × ${view.n} cells of N(0, I), after the layer` + (narrow ? "" : ". Darker: denser.")));
  const key = (column, row, style, words) => {
    const [a, b] = narrow ? [0, font * (2.4 + 1.3 * row)] : [column, font * 2.4];
    out.push(`<path ${style} d="M${a} ${at(b - font * 0.7)}h14v10h-14Z"/>`, text(a + 20, b, words));
  };
  const solid = 'style="stroke:var(--ink);stroke-width:3"', dashed = 'style="stroke:var(--ink);stroke-dasharray:3 2"';
  key(0, 0, dashed, "traced cell before");
  key(font * 12, 1, solid, "traced cell now");
  if (view.turned) key(font * 22, 2, 'style="fill:url(#hatch)"', "turned over");
  out.push(line("grid", left, top, left, bottom), line("grid", left, bottom, left + size, bottom));
  for (const v of [-2, 2]) out.push(text(x(v), bottom + font * 1.2, fix(v, 0), "middle", "mute"), text(left - 5, y(v) + 4, fix(v, 0), "end", "mute"));
  out.push(text(left + size, bottom + font * 1.2, "z₁", "end", "bold"), text(left - 5, top + font, "z₂", "end", "bold"));
  const shades = {};
  for (const c of view.cells) {
    const shade = c.det < 0 ? "url(#hatch)" : "var(--blue);fill-opacity:" + Math.round(8 * (1 - Math.exp(-4 * c.density))) / 8;
    shades[shade] = (shades[shade] || "") + loop(c.quad);
  }
  for (const shade in shades) out.push(`<path class="faint" style="fill:${shade}" d="${shades[shade]}"/>`);
  if (planar) out.push(line("truth", x(-2.1), y(2.8), x(2.1), y(-2.8)), text(x(-2.1) - 6, y(2.8), "w·z = 0", "end", "halo"), arrow("", x(-1.92), y(2.56), x(-1.32), y(3.01)), text(x(-1.25), y(3.01), "w/2", "start", "halo"));
  else out.push(dot("open", x(CENTER[0]), y(CENTER[1]), 4));
  const box = [[0, side], [side, side], [side, 2 * side], [0, 2 * side]];
  const sides = box.flatMap(([e, f], i) => range(4).map((k) => {
    const [g, h] = box[(i + 1) % 4];
    return layer.image([e + ((g - e) * k) / 4, f + ((h - f) * k) / 4]);
  }));
  out.push(`<path ${dashed} d="${loop(box)}"/>`, `<path ${solid} d="${loop(sides)}"/>`);
  // u and, where it differs, the û that the layer uses.
  const [a, b, e, f] = [x(base[0]), y(base[1]), x(tip[0]), y(tip[1])];
  out.push(line("red thick", a, b, e, f), text(e - 15, f + 5, planar ? "u" : "β", "end", "halo bold"));
  if (view.safe) out.push(arrow("green thick", a, b, x(base[0] + layer.u[0]), y(base[1] + layer.u[1]), 8));
  out.push(text(left + 6, bottom - 8, `${view.sign} = ${fix(view.raw, 2)}`, "start", "halo bold"));
  const hint = !state.guess ? "Predict first." : view.seen ? "" : "Drag the dot \u2199";
  if (hint) out.push(text(left + size, top + font, hint, "end", "halo bold"));
  // What the layer does along its one line.
  const [from, start, to, end] = l.box;
  const p = scale(-PROFILE, PROFILE, from, to), q = scale(-PROFILE, PROFILE, end, start);
  const trace = (kind, f, test = () => true) => {
    const points = range(37).map((i) => (i / 18 - 1) * PROFILE).filter((t) => Math.abs(f(t)) <= PROFILE && test(t));
    if (points.length) out.push(path(kind, points.map((t) => [p(t), q(f(t))])));
  };
  out.push(line("grid", from, q(0), to, q(0)), line("grid", p(0), start, p(0), end), line("", from, start, from, end), line("", from, end, to, end));
  for (const v of [-2, 2]) out.push(text(p(v), end + font * 1.2, fix(v, 0), "middle", "mute"));
    out.push(text(to, end - 6, (planar ? "w·z" : "distance") + " before", "end", "halo"), text(from + 5, start + font * 0.8, "after, same scale", "start", "halo"));
  out.push(line("truth", from, end, to, start));
  trace("blue thick", layer.g);
  trace("red thick", layer.g, (t) => layer.slope(t) < 0);
  if (view.sources.length > 1) out.push(line("", from, q(layer.g(view.t)), to, q(layer.g(view.t))));
  view.sources.forEach(({ t }) => { if (Math.abs(t) < PROFILE) out.push(dot("open", p(t), q(layer.g(t)), 4)); });
  out.push(dot("green", p(view.t), q(layer.g(view.t)), 4));
  const span = Math.min(font * 17.5, l.width - from - 4);
  [HEAD, ...view.rows].forEach((row, i) => row.forEach((words, k) =>
    out.push(text((narrow ? left : from) + span * [0, 0.75, 1][k], lines + font * 1.4 * i, words, k ? "end" : "start", i ? "" : "bold"))));
  return out.join("");
}

const HEAD = ["traced cell", "before", "now"];
const seen = (view) => view.seen;
const spec = {
  name: "warped-grid",
  title: "A grid under one flow layer",
  fields: {
    guess: { among: ["", "zero", "one", "two", "never"] },
    seen: { among: ["no", "yes"] },
    layer: { among: Object.keys(LAYERS) },
    pull: { min: -2.5, max: 1.5, step: 0.05 },
    across: { min: -0.8, max: 0.8, step: 0.1 },
    safe: { among: ["no", "yes"] },
  },
  given: ["claim", "cells"],
  stillState: { guess: "one", seen: "yes", pull: -1.6, cells: 6 },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> A planar layer moves each point z to z + u·tanh(w·z): one side of the dashed line along u, the other against it. Pull u back, against w. Below which w·u do two points collide?",
    options: [["zero", "Below 0"], ["one", `Below ${MINUS}1`], ["two", `Below ${MINUS}2`], ["never", "Never"]],
    verdict({ state }) {
      const [words, why] = {
        zero: ["below 0", "Before, the two sides only move closer."],
        one: [`below ${MINUS}1`, `At ${MINUS}1 it is 0.`],
        two: [`below ${MINUS}2`, "Points near the line collide sooner."],
        never: ["never", "The two sides pass each other."],
      }[state.guess];
      return `Your guess: <b>${words}</b>.` + (state.seen === "yes" ? ` Seen: below ${MINUS}1 cells turn over; the slope at the line is 1 + w·u. ${why}` : "");
    },
  },
  controls: [
    { key: "pull", label: "w·u or β", text: (v, { sign }) => `${sign} = ${fix(v, 2)}` },
    { key: "across", label: "u across w", text: (v) => fix(v, 1), show: (view) => view.seen && view.planar },
    { key: "layer", label: "Layer", options: [["planar", "planar"], ["radial", "radial"]], show: seen },
    { key: "safe", label: "Constrained as in the library", options: [["no", "no"], ["yes", "yes"]], show: seen },
  ],
  moved(state) {
    if (state.pull < -1.1) state.seen = "yes";
  },
  status(view) {
    const { state, sign, raw, s, safe, folded, turned, point, sources } = view;
    if (!state.guess) return "Choose a prediction to unlock u.";
    return `${sign} = ${fix(raw, 2)}${safe ? `, made ${fix(s, 3)}` : ""}: ` + (folded ? `folded, ${turned} of ${view.n ** 2} cells have turned over.` : "no fold.") +
      ` Traced cell: ${view.rows.map(([name, one, two]) => `${name} ${one} \u2192 ${two}`).join(", ")}.` +
      (sources.length > 1 ? ` Its middle lands on ${sources.length - 1} more points: the density there is ${sig(point.truth)}, the formula says ${sig(point.formula)}.` : "");
  },
  goal: (view) => view.seen && {
    text: "Double the traced cell's mean density without folding the grid.",
    done: !view.folded && view.densities[1] >= 2 * view.densities[0],
    found: `Half the area, twice the density. Down to ${MINUS}1, only cells near the ${view.planar ? "line" : "center"} get that dense.`,
  },
  story: (view) => view.seen
    ? `<p><b>What was to be found.</b> ${view.state.claim} Where three points land on one, it counts one. So an invertible layer cannot fold: ${view.safe ? `the constraint keeps ${view.planar ? "w·û" : "β"} = ${fix(view.s, 3)} above ${MINUS}1` : "the library keeps w·û above \u22121 (try “constrained”)"}. A radial layer, z + β(z \u2212 c)/(α + r), folds at β < \u2212α.</p>` +
      `<p class="small"><b>Limits.</b> One layer, two dimensions, b = 0. Area and density are sums over 400 parts. Open dots: what lands with the cell's middle.</p>` : "",
  table: (view) => ({ caption: `${view.sign} = ${fix(view.s, 3)}`, head: HEAD, rows: view.rows }),
};

const render = (widget) => explore(spec, widget);
export default { render, spec };
