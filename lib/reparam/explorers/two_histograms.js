// Chapter 3: many pathwise and many score function estimates of one gradient, on one axis.
const COUNT = 200, MOST = 16;
// Columns of bricks.
const BINS = 80;
const WIDEST = 15;
const OMEGA = 5, EDGE = 1.5, SHIFT = 10;
const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
// P(ε > s), by Simpson's rule.
const tail = (s) => 0.5 - (s / 600) * range(201).reduce((sum, i) => sum + (i % 200 ? 2 + 2 * (i % 2) : 1) * density((s * i) / 200), 0);

// What each knows of E[f(z)], z = μ + σε: its gradient, and by each parameter the second moments of
// one pathwise and of one score function estimate.
const quadratic = (shift, label) => ({
  label, f: (z) => z * z + shift, slope: (z) => 2 * z,
  exact(m, s) {
    // f is a + bε + cε².
    const [a, b, c] = [m * m + shift, 2 * m * s, s * s];
    return {
      mu: [2 * m, 4 * m * m + 4 * c, (a * a + 3 * b * b + 15 * c * c + 6 * a * c) / c],
      sigma: [2 * s, 4 * m * m + 12 * c, (2 * a * a + 10 * (b * b + 2 * a * c) + 78 * c * c) / c],
    };
  },
});
const FUNCTIONS = {
  square: quadratic(0, "z²"),
  shifted: quadratic(SHIFT, `z² + ${SHIFT}`),
  sine: {
    label: `sin ${OMEGA}z`, f: (z) => Math.sin(OMEGA * z), slope: (z) => OMEGA * Math.cos(OMEGA * z),
    exact(m, s) {
      const u = OMEGA * s, v = 4 * u * u, damp = Math.exp((-u * u) / 2);
      // E[cos 2ωz · h(ε)] for h = 1, ε² and (ε² - 1)².
      const double = Math.exp(-2 * u * u) * Math.cos(2 * OMEGA * m);
      return {
        mu: [OMEGA * damp * Math.cos(OMEGA * m), OMEGA * OMEGA * (1 + double) / 2, (1 - double * (1 - v)) / (2 * s * s)],
        sigma: [-OMEGA * u * damp * Math.sin(OMEGA * m), OMEGA * OMEGA * (1 + double * (1 - v)) / 2, (2 - double * (v * v - 4 * v + 2)) / (2 * s * s)],
      };
    },
  },
  step: {
    label: `step at ${EDGE}`, f: (z) => Number(z > EDGE), slope: () => 0, biased: true,
    exact(m, s) {
      const x = (EDGE - m) / s, p = density(x), q = tail(x);
      return { mu: [p / s, 0, (q + x * p) / s ** 2], sigma: [(p * x) / s, 0, (2 * q + (x ** 3 + x) * p) / s ** 2] };
    },
  },
};
const KEYS = Object.keys(FUNCTIONS);
const KINDS = { path: ["Pathwise", "blue", "dot"], score: ["Score function", "red", "box"] };
const ROWS = Object.keys(KINDS);
const SIGN = { mu: "μ", sigma: "σ" };

const summary = (xs) => {
  const m = mean(xs), moment = (p) => mean(xs.map((x) => (x - m) ** p));
  const variance = (moment(2) * xs.length) / (xs.length - 1);
  return { mean: m, variance, error: Math.sqrt(Math.max(0, moment(4) - variance ** 2) / xs.length) };
};
function measured(state, key) {
  const { mu, sigma, by, seed } = state;
  const k = Number(state.k);
  const { f, slope, exact, biased } = FUNCTIONS[key];
  const terms = {
    path: (e) => slope(mu + sigma * e) * (by === "mu" ? 1 : e),
    score: (e) => f(mu + sigma * e) * (by === "mu" ? e : e * e - 1) / sigma,
  };
  const [truth, path, score] = exact(mu, sigma)[by];
  const estimates = {}, seen = {};
  for (const row of ROWS) {
    estimates[row] = range(COUNT).map((i) => mean(freshNoise(seed, i, MOST).slice(0, k).map(terms[row])));
    seen[row] = summary(estimates[row]);
  }
  return { truth, center: { path: biased ? 0 : truth, score: truth }, estimates, seen, exact: { path: biased ? 0 : (path - truth ** 2) / k, score: Math.max(0, score - truth ** 2) / k } };
}
function model(state) {
  const now = measured(state, state.f);
  const whole = state.n === COUNT;
  const start = state.f === "square" && state.mu === 1 && state.sigma === 1 && state.k === "1" && state.by === "mu";
  // An axis that holds every estimate, bracket and bar: nothing lies beyond its ends.
  const ends = [now.truth - 0.01, now.truth + 0.01, ...ROWS.flatMap((row) => {
    const half = start ? WIDEST : Math.sqrt(now.exact[row]);
    return [...now.estimates[row], now.center[row] - half, now.center[row] + half];
  })];
  const step = reach((Math.max(...ends) - Math.min(...ends)) / 6);
  const low = Math.floor(Math.min(...ends) / step), high = Math.ceil(Math.max(...ends) / step);
  const ticks = range(high - low + 1).map((i) => Number(((low + i) * step).toPrecision(3)));
  const bins = {};
  for (const row of ROWS) {
    const columns = now.estimates[row].slice(0, state.n).map((x) => Math.min(BINS - 1, Math.floor((BINS * (x / step - low)) / (high - low))));
    bins[row] = range(BINS).map((i) => columns.filter((c) => c === i).length);
  }
  const squares = now.estimates.score.map((x) => (x - now.seen.score.mean) ** 2).sort((a, b) => b - a);
  return {
    state, whole, start, ticks, bins, ...FUNCTIONS[state.f], ...now,
    // What share of the score function's measured variance its five farthest estimates make.
    farthest: mean(squares.slice(0, 5)) / mean(squares) * 5 / COUNT,
    open: whole && Boolean(state.bet || !start),
    opened: KEYS.filter((key, i) => key === state.f || state.opened.includes(i)),
  };
}

// Significant digits, for what is not negative.
const sig = (x, digits = 3) => (x < 5e-4 ? "0" : x < 10 ** digits ? x.toPrecision(digits) : String(Number(x.toPrecision(digits))));

function layout({ width, font, room }, { ticks, truth, bins }) {
  const narrow = width < 34 * font;
  const f = narrow ? Math.min(font, 13) : font;
  const [left, right] = [14, width - 14];
  const head = f * (narrow ? 4.2 : 2.9), foot = 16 + 4 * f;
  const tall = Math.max(60, ((room || 500 + narrow * 40) - 2 * (head + foot) - 3 * f) / 2);
  const [low, high] = [ticks[0], ticks.at(-1)];
  const base = { path: head + tall, score: 2 * (head + tall) + foot };
  return {
    font: f, narrow, left, right, x: scale(low, high, left, right), base, tall, bottom: base.score + foot, height: base.score + foot + f * 2.8,
    brick: Math.min(8, tall / Math.max(1, ...bins.path, ...bins.score)),
    guess: (px) => scale(left, right, low, high)(px) - truth,
  };
}

function handles({ state, truth }, { x, base, guess }) {
  return state.guess ? [] : ROWS.map((row) => ({
    key: row, x: x(truth + state[row]), y: base[row] + 24, value: guess, shape: KINDS[row][2], kind: KINDS[row][1],
    before: true, label: `${KINDS[row][0]} bracket`, text: `truth ± ${fix(state[row], 1)}`,
  }));
}

function draw(view, { font, narrow, left, right, x, base, tall, bottom, brick }) {
  const { state, truth, ticks, whole } = view;
  const out = [], wide = (right - left) / BINS;
  const gap = brick < 1.5 ? "" : 0.2;
  const by = state.by === "mu";
  const formula = { path: `f′(z)${by ? "" : "·ε"}`, score: `f(z)·${by ? "ε" : "(ε² \u2212 1)"}/σ` };
  ticks.forEach((t) => out.push(line("grid", x(t), base.path - tall, x(t), bottom),
    text(x(t), bottom + font * 1.2, (t < 0 ? MINUS : "") + Math.abs(t), "middle", "mute")));
  out.push(text(right, bottom + font * 2.5, `estimate of ∂/∂${SIGN[state.by]} E[f(z)]` + (narrow ? "" : "; a brick is one, ticks show where they lie"), "end"));
  for (const row of ROWS) {
    const [name, kind] = KINDS[row], floor = base[row], top = floor - tall, first = top - font * (narrow ? 3 : 1.7);
    const d = view.bins[row].map((count, i) => count ? `M${at(left + (i + 0.5) * wide)} ${at(floor)}v${at(-brick * (count - gap))}` : "").join("");
    // Ticks of 2 px, neighbors joined: one dashed stroke.
    const rug = [...new Set(view.estimates[row].slice(0, state.n).map((e) => 2 * Math.round(x(e) / 2)))].sort((a, b) => a - b);
    const starts = rug.filter((e, i) => e - rug[i - 1] !== 2), stops = rug.filter((e, i) => rug[i + 1] - e !== 2);
    if (d) out.push(`<path class="${kind}" style="stroke-width:${at(0.84 * wide)}${gap && `;stroke-dasharray:${brick * (1 - gap)} ${brick * gap}`}" d="${d}"/>`,
      `<path class="${kind}" style="stroke-width:9;stroke-dasharray:${stops.map((e, i) => [e - starts[i] + 2, starts[i + 1] - e - 2 || 9]).join(" ")}" d="M${rug[0] - 1} ${at(floor + 7)}H${rug.at(-1) + 1}"/>`);
    out.push(line("", left, floor, right, floor), line("truth", x(truth), top, x(truth), floor + 12 + 3 * font));
    const { mean: m, variance, error } = view.seen[row];
    out.push(`<path class="${kind} thick" d="M0 ${at(first - font * 0.4)}h14"/>`, text(20, first, name + (state.k !== "1" ? ", mean" + (narrow ? "" : " of " + state.k) : narrow ? "" : ", one estimate") + ": " + formula[row], "start", "bold"));
    const told = whole ? [`mean ${fix(m, 2)}, variance ${sig(variance)} ± ${sig(error, 2)}`, `(exact variance ${sig(view.exact[row])})`]
      : state.n ? ["drawn: " + view.estimates[row].slice(0, state.n).map((v) => fix(v, 2)).join(", ")] : [];
    (narrow ? told : [told.join(" ")]).forEach((words, i) => out.push(text(0, first + font * 1.3 * (i + 1), words)));
    const bracket = (style, middle, half, y, words, away = 6) => {
      const [a, b] = [x(middle - half), x(middle + half)], long = words.length * font * 0.56 + away;
      out.push(`<path class="${style}" d="M${at(a)} ${at(y - 5)}v10m0 -5H${at(b)}m0 -5v10"/>`,
        b + long < right + 14 ? text(b + away, y + 5, words, "start", "halo") : a > long ? text(a - 6, y + 5, words, "end", "halo") : text((a + b) / 2, y + 5, words, "middle", "halo"));
    };
    const under = (i) => floor + 12 + font * (i + 0.5) * 1.2;
    if (view.start && state[row]) bracket("", truth, state[row], state.guess ? under(0) : floor + 24, narrow && !state.guess ? "" : `your guess ± ${fix(state[row], 1)}`, state.guess ? 6 : 26);
    if (whole) {
      bracket(kind, m, Math.sqrt(variance), under(1), `measured ± ${sig(Math.sqrt(variance))}`);
      bracket(kind + " thick", view.center[row], Math.sqrt(view.exact[row]), under(2), `exact ± ${sig(Math.sqrt(view.exact[row]))}`);
    }
  }
  const hint = !state.guess ? "Predict: drag both brackets \u2194" : state.n < 3 ? `Draw one estimate: ${state.n} of 3` : whole ? "" : "Now draw two hundred.";
  if (hint) out.push(text(right, base.path - tall + font, hint, "end", "halo bold"));
  out.push(text(x(truth) + 6, base.path - tall + font * (hint && narrow ? 2.4 : 1), `truth ${fix(truth, 3)}`, "start", "halo bold"));
  return out.join("");
}

const BETS = { path: "the pathwise one", score: "the score function's", none: "about equally wide" };
const whole = (view) => view.whole;
const open = (view) => view.open;
const sandbox = (view) => view.open && view.opened.length > 2;
const lower = ({ exact }) => exact.path < exact.score ? "pathwise" : "score function";
const spec = {
  name: "two-histograms",
  title: "Two histograms",
  fields: {
    guess: { among: ["", "yes"] },
    path: { min: 0.5, max: WIDEST, step: 0.5 },
    score: { min: 0.5, max: WIDEST, step: 0.5 },
    n: { min: 0, max: COUNT, step: 1 },
    bet: { among: ["", ...Object.keys(BETS)] },
    opened: { like: /^0[1-3]{0,3}$/ },
    f: { among: KEYS },
    by: { among: ["mu", "sigma"] },
    k: { among: ["1", "4", "16"] },
    mu: { min: -2, max: 2, step: 0.05 },
    sigma: { min: 0.1, max: 2.5, step: 0.05 },
  },
  given: ["claim", "seed"],
  stillState: { guess: "yes", path: 0, score: 0, n: COUNT },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> z ~ N(1, 1) and f = z². The gradient of E[f(z)] by μ is 2. From one sample, the pathwise estimate is 2z " +
      "and the score function's z²·(z \u2212 1); both have mean 2. How far does each spread? Drag its bracket to one standard deviation either side.",
    options: [["yes", "Commit both brackets"]],
    verdict: (view) => `Your guess for z²: <b>± ${fix(view.state.path, 1)} pathwise, ± ${fix(view.state.score, 1)} score function</b>.` +
      (view.whole ? " Exact: ± 2.00 and ± 5.48." : "") +
      (view.state.bet ? `<br>Your guess for sin ${OMEGA}z, the wider: <b>${BETS[view.state.bet]}</b>. Exact: ± 3.54 and ± 0.71.` +
        (view.opened.includes("shifted") ? "" : ` Next: before you press z² + ${SHIFT}, say which of the two gets wider than for z².`) : ""),
  },
  controls: [
    ...ROWS.map((row) => ({ key: row, before: true, nudge: 0.5, label: `${KINDS[row][0]} bracket`, text: (v) => "± " + fix(v, 1) })),
    {
      key: "n", show: (view) => !view.whole,
      build(change, state) {
        const button = make("button");
        const row = make("div", { className: "row" }, button);
        button.onclick = () => change("n", state.n < 3 ? state.n + 1 : COUNT, row);
        return { row, show() { button.textContent = state.n < 3 ? "Draw one estimate" : `Draw ${COUNT}`; } };
      },
    },
    {
      key: "bet", options: Object.entries(BETS), show: (view) => view.whole && !view.open,
      label: `<b>Predict again.</b> Now f = sin ${OMEGA}z, with the slope ${OMEGA} cos ${OMEGA}z. Which is wider now?`,
    },
    { key: "f", label: "Function f", options: KEYS.map((key) => [key, FUNCTIONS[key].label]), show: open },
    { key: "k", label: "Samples K in each", options: ["1", "4", "16"].map((k) => [k, k]), show: sandbox },
    { key: "by", label: "Derivative by", options: Object.entries(SIGN), show: sandbox },
    { key: "mu", label: "Mean μ", text: (v) => fix(v, 2), show: sandbox },
    { key: "sigma", label: "Standard deviation σ", text: (v) => fix(v, 2), show: sandbox },
  ],
  moved(state, key) {
    if (key === "bet") state.f = "sine";
    const i = KEYS.indexOf(state.f);
    if (!state.opened.includes(i)) state.opened += i;
  },
  status(view) {
    const { state, estimates, exact, truth, label } = view;
    if (!state.guess) return "Drag both brackets and commit them; then draw.";
    if (!state.n) return "Draw one estimate of each kind, three times.";
    if (!view.whole) return `Estimate ${state.n}: pathwise ${fix(estimates.path[state.n - 1], 2)}, score function ${fix(estimates.score[state.n - 1], 2)}; the truth is ${fix(truth, 2)}.`;
    return `f = ${label}, μ = ${fix(state.mu, 2)}, σ = ${fix(state.sigma, 2)}, truth ${fix(truth, 3)}: exact variance ${sig(exact.path)} pathwise, ${sig(exact.score)} score function. ` +
      (view.biased ? "Pathwise varies least and is wrong: every estimate is 0." : `The ${lower(view)} estimate wins, ${(Math.max(exact.path, exact.score) / Math.min(exact.path, exact.score)).toPrecision(3)} to 1.`) +
      (view.start ? ` Most score function estimates lie near 0; a few huge ones make its variance: the 5 farthest of ${COUNT}, ${(100 * view.farthest).toFixed(0)} % of it.` : "");
  },
  goal: (view) => sandbox(view) && {
    text: `Make it flip back: find μ and σ where, for sin ${OMEGA}z, the pathwise estimate's exact variance is at most a fortieth of the score function's.`,
    done: view.state.f === "sine" && 40 * view.exact.path <= view.exact.score,
    found: `Where q is narrow, and f nearly straight under it, the slope is nearly the same for every sample; the score function divides by the small σ.`,
  },
  story(view) {
    const found = {
      square: ` For z² most score function estimates lie near 0, and a few huge ones make its variance.`,
      shifted: ` A constant leaves f′ and the pathwise estimates alone; the score function multiplies f itself, constant included: from 30 to 210. Taking one away is a baseline (chapter 7).`,
      sine: ` Of sin ${OMEGA}z, f is at most 1 and f′ as large as ${OMEGA}.`,
      step: ` For the step (1 where z exceeds ${EDGE}, else 0) low variance is wrong: f′ is 0 wherever it exists, so every pathwise estimate is 0, and the truth is not.`,
    };
    return view.open ? `<p><b>What was to be found.</b>${view.opened.includes("sine") ? " " + view.state.claim : ""}${view.opened.map((key) => found[key]).join("")}</p>` +
      `<p class="small"><b>Limits.</b> ${COUNT} estimates of one seed; ± is the standard error of the measured variance, itself unsteady where tails are heavy. One dimension, no baseline: both change the race (chapters 3 and 7).</p>` : "";
  },
  table(view) {
    const { state } = view;
    if (!view.whole) return {
      caption: "The estimates drawn so far.", head: ["Estimate", "Pathwise", "Score function"],
      rows: range(state.n).map((i) => [i + 1, fix(view.estimates.path[i], 3), fix(view.estimates.score[i], 3)]),
    };
    return {
      caption: `Variances at μ = ${fix(state.mu, 2)}, σ = ${fix(state.sigma, 2)}, by ${SIGN[state.by]}, K = ${state.k}; measured: from ${COUNT} estimates.`,
      head: ["f", "Truth", ...ROWS.flatMap((row) => [KINDS[row][0] + ", exact", "measured", "mean"])],
      rows: view.opened.map((key) => {
        const { truth, exact, seen } = measured(state, key);
        return [FUNCTIONS[key].label, fix(truth, 3), ...ROWS.flatMap((row) => [sig(exact[row]), sig(seen[row].variance), fix(seen[row].mean, 3)])];
      }),
    };
  },
};

const render = (widget) => explore(spec, widget);
export default { render, spec, freshNoise, readHash, writeHash };
