// Chapter 1: a Monte Carlo loss, E[z²] with z = μ + ε, under fresh and under frozen noise.
const POINTS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcde";
const KEEP = 200;
const LOW = 0, HIGH = 2, STEP = 0.05, TOP = 6;
// Draws from these numbers on are for the twenty pairs and the twenty other seeds.
const PAIRS = 1e6, OTHERS = 2e6;
const place = (index) => Number((LOW + index * STEP).toFixed(6));
const index = (mu) => Math.round((mu - LOW) / STEP);

const loss = (mu, noise) => mean(noise.map((e) => (mu + e) ** 2));
const difference = (mu, h, left, right) => (loss(mu + h / 2, right) - loss(mu - h / 2, left)) / h;
const deviation = (xs) => {
  const m = mean(xs);
  return Math.sqrt(xs.reduce((sum, x) => sum + (x - m) ** 2, 0) / (xs.length - 1));
};

const banks = new Map();
function bank({ frozen_noise, seed, size }) {
  const name = `${frozen_noise} ${seed}`;
  if (!banks.has(name)) banks.set(name, [decode(frozen_noise), ...range(20).map((i) => freshNoise(seed, OTHERS + i, size))]);
  return banks.get(name);
}
function model(state) {
  const { mu, seed, size } = state;
  const [own, ...others] = bank(state);
  const h = Number((10 ** state.logstep).toPrecision(3));
  const visits = [...state.fresh].map((c, i) => ({
    mu: place(POINTS.indexOf(c)), loss: loss(place(POINTS.indexOf(c)), freshNoise(seed, state.from + i, size)),
  }));
  const trail = [...state.frozen].map((c) => POINTS.indexOf(c));
  const here = visits.filter((v) => v.mu === mu).map((v) => v.loss);
  const left = range(20).map((i) => freshNoise(seed, PAIRS + 2 * i, size));
  const right = range(20).map((i) => freshNoise(seed, PAIRS + 2 * i + 1, size));
  // Once the slopes are measured, the plot above them shows how the fresh ones are made.
  const open = state.bet !== "";
  const freshSlopes = open ? range(20).map((i) => difference(mu, h, left[i], right[i])) : [];
  const frozenSlopes = open ? others.map((noise) => difference(mu, h, noise, noise)) : [];
  // Var[z²] = 2 + 4μ² at each of two independent points; frozen, only 2·mean(ε) is left.
  const spread = (step) => Math.sqrt((4 + 8 * mu * mu + 2 * step * step) / size) / step;
  return {
    state, mu, h, size, open, fresh: open || state.noise === "fresh", visits, here, trail,
    frozenHere: trail.filter((i) => i === index(mu)).length,
    truth: mu * mu + 1,
    frozen: loss(mu, own),
    tangent: mean(own.map((e) => 2 * (mu + e))),
    own, others,
    pair: [loss(mu - h / 2, left[0]), loss(mu + h / 2, right[0])],
    freshSlopes, frozenSlopes,
    reach: reach(Math.max(2.5 * spread(h), ...[...freshSlopes, ...frozenSlopes].map((s) => Math.abs(s - 2 * mu)))),
    freshDeviation: spread(h), presets: [0.1, 0.01].map(spread),
    frozenDeviation: 2 / Math.sqrt(size),
  };
}

function layout({ width, font, room }, { open, fresh, mu, reach }) {
  const total = room || 430;
  const narrow = width < 34 * font;
  const plot = { left: font * 2.2, right: width - 12, top: font * 1.8 };
  plot.bottom = plot.top + clamp(width * 0.55, 190, total * (open ? 0.5 : 0.72));
  // Where the plot is narrow its legend stands below it.
  const below = narrow ? font * (open ? 4.9 : fresh ? 3.5 : 7.7) : 0;
  const legend = narrow ? { x: 0, y: plot.bottom + font * 4.2 } : { x: plot.left + 10, y: plot.top + font * 0.9 };
  const strip = { top: plot.bottom + font * 5.2 + below, row: font * 3.4 };
  return {
    font: narrow ? Math.min(font, 13) : font, narrow, plot, legend, strip,
    height: open ? strip.top + strip.row * 2 + font * 3.6 : plot.bottom + font * 3 + below,
    x: scale(LOW, HIGH, plot.left, plot.right),
    y: scale(0, TOP, plot.bottom, plot.top),
    mu: scale(plot.left, plot.right, LOW, HIGH),
    slope: scale(2 * mu - reach, 2 * mu + reach, plot.left, plot.right),
  };
}

const handle = (view) => view.fresh ? view.here.at(-1) ?? view.truth : view.frozen;

function handles(view, { x, y, mu }) {
  return [{
    key: "mu", x: x(view.mu), y: y(handle(view)), value: mu, shape: view.fresh ? "dot" : "box",
    kind: view.fresh ? "red" : "blue", label: "Mean μ",
    text: `μ = ${fix(view.mu, 2)}, estimated loss ${fix(handle(view), 2)}`,
  }];
}

function draw(view, { plot, strip, legend: key, x, y, slope, font, narrow }) {
  const { state, mu, h, open, fresh, reach } = view;
  const out = [];
  for (const t of [0, 2, 4, 6]) {
    out.push(line("grid", plot.left, y(t), plot.right, y(t)), text(plot.left - 5, y(t) + 4, t, "end", "mute"));
  }
  for (const t of [0, 0.5, 1, 1.5, 2]) out.push(text(x(t), plot.bottom + font * 1.3, t, "middle", "mute"));
  out.push(text(plot.right, plot.bottom + font * 2.6, "mean μ (σ = 1)", "end"));
  out.push(text(0, font, narrow ? `loss, mean of z² over ${view.size}` : `loss: mean of z² over ${view.size} samples z = μ + ε`));
  const inside = ([a, b]) => a >= LOW && a <= HIGH && b >= 0 && b <= TOP;
  const ray = (b, s) => range(POINTS.length).map((i) => [place(i), b + s * (place(i) - mu)]).filter(inside);
  const trace = (points) => points.map(([a, b]) => [x(a), y(b)]);
  // A loss that is quadratic in μ is one quadratic Bézier curve, exactly.
  const parabola = (kind, value, from = LOW, to = HIGH) => {
    const [a, b, c] = [from, (from + to) / 2, to].map(value);
    out.push(`<path class="${kind}" d="M${at(x(from))} ${at(y(a))}Q${at(x((from + to) / 2))} ${at(y(2 * b - (a + c) / 2))} ${at(x(to))} ${at(y(c))}"/>`);
  };
  if (!fresh && view.frozenHere > 1) for (const noise of view.others) parabola("faint", (m) => loss(m, noise));
  parabola("truth", (m) => m * m + 1);
  const legend = (row, mark, words) => {
    const [a, b] = [key.x, key.y + font * 1.4 * row];
    out.push(mark(a, b - font * 0.35), text(a + 30, b, words, "start", "halo"));
  };
  legend(0, (a, b) => line("truth", a, b, a + 24, b), "truth, μ² + 1");
  for (const v of view.visits) out.push(dot("red", x(v.mu), y(Math.min(v.loss, TOP)), fresh ? 3.5 : 2.5));
  legend(1, (a, b) => dot("red", a + 12, b, 4), state.guess ? "fresh: new noise at each visit" : `estimate from ${view.size} draws`);
  if (fresh) {
    if (view.here.length > 1) {
      const [low, high] = [Math.min(...view.here), Math.max(...view.here)];
      out.push(line("red thick", x(mu), y(low), x(mu), y(Math.min(high, TOP))));
      for (const b of view.here) out.push(dot("open", x(mu), y(Math.min(b, TOP)), 5));
      const side = mu > 0.9 ? -1 : 1;
      out.push(text(x(mu) + side * 18, y(Math.min(high, TOP)) - font, `one μ, ${view.here.length} heights`, side < 0 ? "end" : "start", "halo bold"));
    }
    if (open) {
      const s = (view.pair[1] - view.pair[0]) / h;
      const far = Math.hypot(x(1) - x(0), s * (y(0) - y(1)));
      const half = Math.min(0.6, (plot.bottom - plot.top) * 0.3 / far);
      const middle = mean(view.pair);
      out.push(path("green", trace([[mu - half, middle - s * half], [mu + half, middle + s * half]])));
      [-1, 1].forEach((side, i) => {
        const a = mu + side * h / 2;
        if (inside([a, view.pair[i]])) out.push(shapes.box("green", x(a), y(view.pair[i]), 4));
      });
      legend(2, (a, b) => line("green", a, b, a + 24, b), `one slope, step h: ${fix(s, 1)}`);
    }
  } else {
    const low = Math.min(...view.trail), high = Math.max(...view.trail);
    if (high > low) parabola("blue thick", (m) => loss(m, view.own), place(low), place(high));
    legend(2, (a, b) => line("blue thick", a, b, a + 24, b) + shapes.box("blue", a + 12, b, 4), "frozen: the same noise always");
    if (view.frozenHere > 1) {
      out.push(path("green", trace([ray(view.frozen, view.tangent)].flatMap((r) => [r[0], r.at(-1)]))));
      legend(3, (a, b) => line("green", a, b, a + 24, b), `its tangent: slope ${fix(view.tangent, 2)}`);
      legend(4, (a, b) => line("faint", a, b, a + 24, b), "frozen, 20 other seeds");
    }
  }
  const hint = !state.guess ? "Predict first, then drag."
    : fresh ? (view.here.length > 1 && !open && state.frozen === "" ? "Now freeze, drag again." : view.visits.length < 2 ? "Drag the dot right and back \u21c6" : "")
    : view.frozenHere < 2 ? (view.trail.length < 2 ? "Drag the square right and back \u21c6" : "… and back to where you started") : "";
  if (hint) out.push(text(plot.right - 4, plot.bottom - font * 0.8, hint, "end", "halo bold"));
  if (!open) return out.join("");

  const bottom = strip.top + 2 * strip.row + font * 0.8;
  const round = (t) => fix(t, Number.isInteger(Number(t.toFixed(1))) ? 0 : 1);
  out.push(text(0, strip.top - font * 1.2, narrow ? `20 slopes, h = ${h}; axis ± ${reach}` : `20 slopes (loss at μ + h/2, less loss at μ ${MINUS} h/2) / h, with h = ${h}`, "start", "bold"));
  out.push(line("truth", plot.left, strip.top - font * 0.2, plot.left + 24, strip.top - font * 0.2), text(plot.left + 30, strip.top + font * 0.15, `true slope 2μ = ${fix(2 * mu, 2)}`, "start", "halo"));
  for (const part of narrow ? [-1, 0, 1] : [-1, -0.5, 0, 0.5, 1]) {
    const t = 2 * mu + part * reach;
    const side = { "-1": "start", 1: "end" }[part] || "middle";
    out.push(line("grid", slope(t), strip.top, slope(t), bottom), text(slope(t), bottom + font * 1.2, round(t), side, "mute"));
  }
  out.push(text(plot.right, bottom + font * 2.4, narrow ? "slope; h sets the range" : `slope, from ${round(2 * mu - reach)} to ${round(2 * mu + reach)} (linear; each h has its own range)`, "end"));
  out.push(line("truth", slope(2 * mu), strip.top + font * 0.5, slope(2 * mu), bottom));
  const row = (i, mark, kind, xs, words) => {
    const top = strip.top + font * 0.6 + i * strip.row;
    out.push(mark(kind, plot.left + 6, top + font * 0.75, 4), text(plot.left + 16, top + font * 1.1, words, "start", "halo"));
    xs.forEach((s, j) => out.push(mark(kind, slope(s), top + font * 1.7 + (j % 5) * font * 0.3, 3)));
  };
  row(0, dot, "red", view.freshSlopes, `fresh: standard deviation ${view.freshDeviation.toPrecision(3)}`);
  row(1, shapes.box, "blue", view.frozenSlopes, `frozen: standard deviation ${view.frozenDeviation.toPrecision(3)}`);
  return out.join("");
}

const BETS = { better: "better", same: "as it is", worse: "ten times worse" };
const open = (view) => view.open;
const spec = {
  name: "fresh-or-frozen",
  title: "Fresh or frozen noise",
  fields: {
    guess: { among: ["", "same", "other"] },
    noise: { among: ["fresh", "frozen"] },
    mu: { min: LOW, max: HIGH, step: STEP },
    bet: { among: ["", "better", "same", "worse"] },
    shrunk: { among: ["no", "yes"] },
    logstep: { min: -3, max: 0.6, step: 0.05 },
    fresh: { like: /^[0-9A-Za-e]{1,200}$/ },
    frozen: { like: /^[0-9A-Za-e]{0,200}$/ },
    from: { min: 0, max: 900000, step: 1 },
  },
  given: ["claim", "frozen_noise", "seed", "size"],
  model,
  stillState: { guess: "other", noise: "frozen", fresh: "KMOQSUWYacaYWUSQOMK", frozen: "KeAK" },
  layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> The dot is an estimate of the loss at μ = 1. " +
      "You drag it away, and back to μ = 1. At what height does it stand?",
    options: [["same", "At the same height"], ["other", "At another height"]],
    verdict: (view) => `Your guess: <b>at ${view.state.guess === "same" ? "the same" : "another"} height</b>.` +
      (view.here.length > 1 ? ` Seen with fresh noise at μ = ${fix(view.mu, 2)}: ${view.here.slice(-4).map((b) => fix(b, 2)).join(", ")}.` : "") +
      (view.open ? `<br>Your guess for a tenth of the step: <b>${BETS[view.state.bet]}</b>.` : "") +
      (view.state.shrunk === "yes" ? ` Seen with fresh noise: from h = 0.1 to 0.01 the standard deviation goes from ${view.presets.map((d) => d.toPrecision(3)).join(" to ")}, ten times worse.` : ""),
  },
  controls: [
    { key: "mu", label: "Mean μ", text: (v) => fix(v, 2) },
    { key: "noise", label: "Noise ε", options: [["fresh", "Fresh"], ["frozen", "Frozen"]], show: (view) => !view.open },
    {
      key: "bet", options: Object.entries(BETS), show: (view) => view.frozenHere > 1 && !view.open,
      label: "<b>Predict again.</b> Measure the slope from two losses, a step h apart; then shrink h tenfold. With fresh noise, does the slope get better, stay as it is, or get ten times worse?",
    },
    { key: "logstep", label: "Preset step", options: [[-1, "h = 0.1"], [-2, "0.01"], [-3, "0.001"]], show: open },
    { key: "logstep", label: "Step h", nudge: 0.1, text: (v) => Number((10 ** v).toPrecision(3)), show: open },
  ],
  moved(state, key) {
    if (key === "logstep" && state.logstep <= -2) state.shrunk = "yes";
    if (!["mu", "noise", "bet"].includes(key)) return;
    const kind = state.bet ? "fresh" : state.noise;
    const now = POINTS[index(state.mu)];
    const trail = state[kind];
    if (key !== "mu" && trail.at(-1) === now) return;
    state[kind] = (trail + now).slice(-KEEP);
    if (kind === "fresh" && trail.length === KEEP) state.from += 1;
  },
  status(view) {
    const { state, here, mu } = view;
    if (!state.guess) return "Choose a prediction to unlock the dot.";
    const where = `μ = ${fix(mu, 2)}`;
    if (view.open) return `Step h = ${view.h} at ${where}: the slope's standard deviation is ${view.freshDeviation.toPrecision(3)} with fresh noise, ${view.frozenDeviation.toPrecision(3)} with frozen noise.${state.shrunk === "no" ? " Now press 0.01." : ""}`;
    if (view.fresh) return here.length > 1
      ? `${where}, ${here.length} visits, ${here.length} heights: ${here.slice(-4).map((b) => fix(b, 2)).join(", ")}.`
      : `${where}: fresh estimate ${fix(handle(view), 2)}, truth ${fix(view.truth, 2)}.`;
    return `${where}: frozen estimate ${fix(view.frozen, 2)}` + (view.frozenHere > 1
      ? ` at each of ${view.frozenHere} visits, with slope ${fix(view.tangent, 2)} (true slope ${fix(2 * mu, 2)}).` : `, truth ${fix(view.truth, 2)}.`);
  },
  goal: (view) => view.state.shrunk === "yes" && {
    text: `For the fresh row, find a step h at which it is as steady as the frozen row (standard deviation at most ${view.frozenDeviation.toPrecision(3)}).`,
    done: view.freshDeviation <= view.frozenDeviation,
    found: `It takes h = ${view.h}, a step as wide as the plot. For z² such a difference still has the right mean; for a loss with more bends it measures another slope. Frozen noise is this steady at any step.`,
  },
  story: (view) => view.frozenHere > 1 || view.open
    ? `<p><b>What was to be found.</b> ${view.state.claim}` + (view.state.shrunk === "yes" ? ` Two visits to one μ differ by chance, and a difference quotient divides that difference by h: with fresh noise its standard deviation grows like 1/h. With frozen noise the same ${view.size} ε serve every μ, so the estimate is a differentiable function of μ, and its slope, the mean of 2(μ + ε), has standard deviation 2/√${view.size} at every h.` : "") + "</p>" +
      `<p class="small"><b>Limits.</b> Differentiable is not exact: the gray curves, other frozen seeds, are smooth too, and off the dashed truth. And z² is smooth; for a step, the frozen curve is a staircase whose slope is 0 almost everywhere (chapter 2).</p>` : "",
  table(view) {
    const rows = view.visits.slice(-12).map((v, i, all) => [view.state.from + view.visits.length - all.length + i + 1, fix(v.mu, 2), fix(v.loss, 3), fix(loss(v.mu, bank(view.state)[0]), 3), fix(v.mu ** 2 + 1, 3)]);
    return {
      caption: `The last ${rows.length} visits. Slope at μ = ${fix(view.mu, 2)}: true ${fix(2 * view.mu, 2)}, frozen tangent ${fix(view.tangent, 3)}.` +
        (view.open ? ` Standard deviation of a slope with step ${view.h}: fresh ${view.freshDeviation.toPrecision(3)} (these 20: ${deviation(view.freshSlopes).toPrecision(3)}), frozen ${view.frozenDeviation.toPrecision(3)} (these 20: ${deviation(view.frozenSlopes).toPrecision(3)}).` : ""),
      head: ["Visit", "μ", "Fresh estimate", "Frozen estimate", "Truth"],
      rows,
    };
  },
};

const render = (widget) => explore(spec, widget);
export default { render, spec, freshNoise, readHash, writeHash };
