// Chapter 5: sixty Gumbel-softmax draws on the triangle, and what their temperature trades.
const PI = [0.6, 0.3, 0.1], TRUTH = PI[0] * (1 - PI[0]);
const LOW = -1.3, HIGH = 0.7, STEP = 0.05, SEEN = -1;
const KINDS = ["blue", "red", "green"];

const soft = (z, tau) => {
  const top = Math.max(...z), powers = z.map((v) => Math.exp((v - top) / tau));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
};
const largest = (xs) => xs.indexOf(Math.max(...xs));
const index = (logtau) => Math.round((logtau - LOW) / STEP);

function model(state) {
  const tau = 10 ** state.logtau;
  const noise = decode(state.noise), draws = range(noise.length / 3);
  const z = draws.map((i) => PI.map((p, k) => Math.log(p) + noise[3 * i + k]));
  const samples = z.map((row) => soft(row, tau));
  const labels = samples.map(largest);
  const slopes = samples.map(([y]) => (y * (1 - y)) / tau);
  // By quadrature, in steps of 1e-4: the means of y₁ and y₂, the slope's mean and deviation.
  const [first, second, slope, deviation] = state.exact.slice(4 * index(state.logtau)).map((n) => n / 1e4);
  const average = mean(slopes);
  return {
    state, tau, samples, labels, slopes,
    start: z.map((row) => soft(row, 1)),
    moved: labels.filter((k, i) => k !== largest(z[i])).length,
    counts: PI.map((_, k) => labels.filter((label) => label === k).length),
    means: PI.map((_, k) => mean(samples.map((y) => y[k]))),
    slope: average, deviation: Math.sqrt(slopes.reduce((sum, s) => sum + (s - average) ** 2, 0) / (draws.length - 1)),
    exact: { means: [first, second, 1 - first - second], slope, deviation },
    error: Math.hypot(slope - TRUTH, deviation / Math.sqrt(draws.length)),
  };
}

function layout({ width, font, room }) {
  const wide = width >= 38 * font, f = width < 34 * font ? Math.min(font, 13) : font;
  const span = wide ? width * 0.46 : width;
  const side = Math.min(span - 3 * f, room ? 30 * f : wide ? 26 * f : 19 * f), middle = span / 2;
  const foot = f * 2.6 + side * 0.866;
  const corners = [[middle - side / 2, foot], [middle + side / 2, foot], [middle, f * 2.6]];
  const head = wide ? 0 : foot + f * 4.9;
  const left = wide ? span + f * 4 : f * 2.6, right = width - f;
  const panel = wide ? Math.min(f * 11, ((room || 500) - f * 12.4) / 2) : f * 7.5;
  const tops = [head + f * 1.9, head + f * 4.3 + panel], bottoms = tops.map((t) => t + panel);
  const rail = bottoms[1] + f * 2.2;
  return {
    font: f, wide, long: width >= 56 * font, span, corners, left, right, tops, bottoms, rail, height: Math.max(rail + f * 4, foot + f * 4.4),
    x: scale(LOW, HIGH, left, right), logtau: scale(left, right, LOW, HIGH),
    y: [scale(0, 0.7, bottoms[0], tops[0]), scale(0, 1, bottoms[1], tops[1])],
    place: (y) => [0, 1].map((axis) => y.reduce((sum, v, k) => sum + v * corners[k][axis], 0)),
  };
}

function handles({ state, tau }, { x, rail, logtau }) {
  return [{ key: "logtau", x: x(state.logtau), y: rail, value: logtau, shape: "dot", kind: "blue", label: "Temperature τ", text: `τ = ${said(tau)}` }];
}

const said = (tau) => String(Number(tau.toPrecision(2)));
// Marks of one class in one stroke: disks, squares, triangles.
const marks = (kind, points, size) => {
  const d = points.map(([a, b]) => `M${at(a)} ${at(b)}` + (kind < 2 ? "h0" : `m0 ${at(-size)}l${at(size)} ${at(1.8 * size)}h${at(-2 * size)}z`)).join("");
  return kind < 2 ? `<path class="${KINDS[kind]}" style="stroke-width:${at(2 * size)};stroke-linecap:${kind ? "square" : "round"}" d="${d}"/>`
    : `<path class="green head" d="${d}"/>`;
};

function draw(view, { font, wide, long, span, corners, left, right, tops, bottoms, rail, x, y, place }) {
  const { state, samples, labels, start, counts, means } = view;
  const seen = state.seen === "yes", here = x(state.logtau);
  const grid = [], out = [];
  out.push(text(0, font, wide && !long ? "60 fixed draws" : "60 draws of softmax((log π + G)/τ)", "start", "bold"));
  // Where two entries are the largest alike.
  for (const edge of [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) grid.push(line("grid", ...place([1 / 3, 1 / 3, 1 / 3]), ...place(edge)));
  out.push(`<path d="M${corners.map((c) => c.map(at).join(" ")).join("L")}Z"/>`);
  const now = samples.map(place), before = start.map(place);
  out.push(...now.map(([a, b], i) => Math.hypot(a - before[i][0], b - before[i][1]) > 1 ? line("faint", ...before[i], a, b) : ""));
  for (const k of range(3)) out.push(marks(k, now.filter((_, i) => labels[i] === k), font * 0.26));
  const foot = corners[0][1];
  [[0, foot + font * 1.5, "start"], [span, foot + font * 1.5, "end"], [corners[2][0] + font * 0.8, corners[2][1] + font * 0.2, "start"]].forEach(([a, b, side], k) =>
    out.push(text(a, b, `class ${k + 1}: ${counts[k]} of 60`, side), text(a, b + font * 1.2, `π = ${PI[k]}`, side, "mute")));
  const r = font * 0.5;
  const ring = (a, b) => `<circle class="ring" cx="${at(a)}" cy="${at(b)}" r="${at(r)}"/>`;
  const cross = (a, b) => `<path class="thick ink" d="M${at(a - r)} ${at(b - r)}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}"/>`;
  out.push(ring(...place(PI)), cross(...place(means)));
  const row = foot + font * 4;
  out.push(ring(r + 1, row - r * 0.7), text(font * 1.5, row, "π"), cross(font * 3.5, row - r * 0.7), text(font * 4.5, row, "mean of the 60"));

  const ticks = [0.1, 0.3, 1, 3];
  const titles = long ? ["mean of the 60 (marks), of all (lines), π (dashed)", "gradient ∂y₁/∂logit₁ = y₁(1 − y₁)/τ"] : ["means: 60 (marks), all (lines), π", "gradient y₁(1 − y₁)/τ"];
  for (const i of [0, 1]) {
    out.push(text(left - font * 2, tops[i] - font * 0.9, titles[i], "start", "bold"));
    for (const t of ticks) grid.push(line("grid", x(Math.log10(t)), tops[i], x(Math.log10(t)), bottoms[i]));
    for (const t of [[0, 0.1, 0.3, 0.6], [0, 0.5, 1]][i]) {
      grid.push(line("grid", left, y[i](t), right, y[i](t)));
      out.push(text(left - 5, y[i](t) + 4, t, "end", "mute"));
    }
    grid.push(line("faint", here, tops[i], here, bottoms[i]));
  }
  const trace = (kind, column, i) => path(kind, range(21).map((j) => {
    const [a, b, ...rest] = state.exact.slice(8 * j, 8 * j + 4).map((n) => n / 1e4);
    return [x(LOW + 2 * STEP * j), y[i]([a, b, 1 - a - b, ...rest][column])];
  }));
  out.push(...[...PI.map((p) => y[0](p)), y[1](TRUTH)].map((b) => line("truth", left, b, right, b)));
  if (seen) out.push(...KINDS.map((kind, k) => trace(kind, k, 0)), trace("blue", 3, 1), trace("red thick", 4, 1));
  const big = font * 0.32;
  PI.forEach((_, k) => out.push(marks(k, [[here, y[0](means[k])]], big)));
  [["mean", view.slope], ["standard deviation", Math.min(1, view.deviation)]].forEach(([words, v], k) => {
    const b = tops[1] + font * (1.2 + 1.3 * k);
    out.push(marks(k, [[here, y[1](v)], [right - font * 10.3, b - font * 0.35]], big), text(right - font * 9.6, b, words, "start", "halo"));
  });
  out.push(text(right, y[1](TRUTH) - 5, "∂π₁/∂logit₁ = 0.24", "end", "halo"), `<path class="thick" d="M${at(left)} ${at(rail)}H${at(right)}"/>`);
  for (const t of ticks) out.push(text(x(Math.log10(t)), rail + font * 2, t, "middle", "mute"));
  out.push(text(right, rail + font * 3.3, "τ (log axis)", "end", "bold"));
  const hint = !state.guess ? "Predict first." : seen ? "" : "\u2190 Pull τ to 0.1";
  if (hint) out.push(text(left - font * 2, rail + font * 3.3, hint, "start", "bold"));
  return [...grid, ...out].join("");
}

const GUESSES = { none: "none", few: "a few, near the borders", most: "most: they gather where π is largest" };
const seen = (view) => view.state.seen === "yes";
const shares = ({ counts }) => `${counts[0]}, ${counts[1]} and ${counts[2]}`;
const list = (xs) => xs.map((v) => fix(v, 2)).join(", ");
const spec = {
  name: "simplex",
  title: "The simplex as τ falls",
  fields: {
    guess: { among: ["", ...Object.keys(GUESSES)] },
    seen: { among: ["no", "yes"] },
    logtau: { min: LOW, max: HIGH, step: STEP },
  },
  given: ["claim", "noise", "exact"],
  stillState: { guess: "none", seen: "yes", logtau: -0.5 },
  style: ".ink{stroke:var(--ink)}",
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> Sixty relaxed samples at τ = 1, each marked by the corner it is nearest to, its largest entry. τ falls to 0.1, the noise G stays. How many change their corner?",
    options: Object.entries(GUESSES),
    verdict: (view) => `Your guess: <b>${GUESSES[view.state.guess]}</b>.` +
      (seen(view) ? ` Seen: ${view.moved || "none"}. Each runs to its own corner, ${shares(view)} of 60: dividing log π + G by τ does not change which entry is the largest.` : ""),
  },
  controls: [
    { key: "logtau", label: "Temperature τ", text: (v) => said(10 ** v) },
    { key: "logtau", label: "Preset τ", options: [[HIGH, "5"], [0, "1"], [-0.3, "0.5"], [-1, "0.1"]], show: seen },
  ],
  moved(state) {
    if (state.logtau <= SEEN) state.seen = "yes";
  },
  status: (view) => !view.state.guess ? "Choose a prediction to unlock τ."
    : `τ = ${said(view.tau)}: labels ${shares(view)}; mean of the 60 (${list(view.means)}), of all (${list(view.exact.means)}); ` +
      `gradient ${fix(view.exact.slope, 3)} ± ${fix(view.exact.deviation, 3)}, that of π₁ is 0.24.`,
  goal: (view) => seen(view) && {
    text: `A mean of 60 gradients misses 0.24 by bias, from relaxing, and by chance: √(bias² + variance/60) is ${fix(view.error, 4)} here. Find a τ where it is at most 0.034.`,
    done: view.error <= 0.034,
    found: `At τ = ${said(view.tau)} the bias is ${fix(view.exact.slope - TRUTH, 3)} and the standard error ${fix(view.exact.deviation / Math.sqrt(60), 3)}: near the best τ they are of one size. More draws want a lower τ.`,
  },
  story: (view) => seen(view)
    ? `<p><b>What was to be found.</b> ${view.state.claim} P(label k) is πₖ exactly, at every τ; the relaxed mean is not: (0.52, 0.33, 0.15) at τ = 1. ` +
      `At high τ the gradient is steady and too small; at low τ right on average, mostly 0, with a few huge ones.</p>` +
      `<p class="small"><b>Limits.</b> Sixty draws, of a seed with 36, 18 and 6 labels; lines: exact, by quadrature. f is y₁, which is linear: a bent f adds a bias of its own.</p>` : "",
  table: (view) => ({
    caption: `At τ = ${said(view.tau)}. The gradient ∂y₁/∂logit₁ has mean ${fix(view.slope, 3)} and standard deviation ${fix(view.deviation, 3)} over the 60 draws; exactly ${fix(view.exact.slope, 3)} and ${fix(view.exact.deviation, 3)}.`,
    head: ["Class", "π", "Labels of 60", "Mean of the 60", "Exact mean"],
    rows: PI.map((p, k) => [k + 1, p, view.counts[k], fix(view.means[k], 3), fix(view.exact.means[k], 3)]),
  }),
};

const render = (widget) => explore(spec, widget);
export default { render, spec, readHash, writeHash };
