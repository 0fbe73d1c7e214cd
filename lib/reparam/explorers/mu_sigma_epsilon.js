// Chapter 2: twenty-four fixed ε on strings to z = μ + σ·ε, and what each sample's gradient is.
const EDGE = 7;
const FUNCTIONS = {
  square: { label: "z²", f: (z) => z * z, slope: (z) => 2 * z, exact: (mu, sigma) => ({ mu: 2 * mu, sigma: 2 * sigma }) },
  sine: { label: "sin z", f: Math.sin, slope: Math.cos, exact: (mu, sigma) => {
    const damp = Math.exp((-sigma * sigma) / 2);
    return { mu: damp * Math.cos(mu), sigma: -sigma * damp * Math.sin(mu) };
  } },
};
const SIGN = { mu: "μ", sigma: "σ" };
const BIN = 0.5;
// Whether z² is smaller at σ = 2 than at σ = 1.
const falls = (mu) => (e) => Math.abs(mu + 2 * e) < Math.abs(mu + e);

function model(state) {
  const { mu, sigma, wrt } = state;
  const eps = decode(state.noise);
  const z = eps.map((e) => mu + sigma * e);
  const jacobian = { mu: eps.map(() => 1), sigma: eps };
  const { f, slope, exact, label } = FUNCTIONS[state.f];
  const gradients = {}, estimates = {};
  for (const key of ["mu", "sigma"]) {
    gradients[key] = z.map((value, i) => slope(value) * jacobian[key][i]);
    estimates[key] = mean(gradients[key]);
  }
  return {
    state, mu, sigma, eps, z, label, f, jacobian, gradients, estimates, exact: exact(mu, sigma),
    values: z.map(f),
    // Before the reveal nothing may give the answer away.
    falling: eps.map(state.seen === "yes" ? falls(mu) : () => false),
    counts: range((2 * EDGE) / BIN).map((i) => z.filter((v) => v >= i * BIN - EDGE && v < (i + 1) * BIN - EDGE).length),
    arrows: jacobian[wrt], terms: gradients[wrt],
  };
}

function layout({ width, font, room }, view) {
  const narrow = width < 34 * font;
  const f = narrow ? Math.min(font, 13) : font;
  const [left, right] = [f * 1.8, width - f * 1.2];
  const gradient = view.state.part === "gradient";
  const total = room || (gradient ? 610 : 470);
  const free = Math.max(230, total - f * (gradient ? 14.4 : 10.4) - 64);
  const top = f * 3.4;
  const rail = top + free * (gradient ? 0.28 : 0.42);
  const grips = rail + f * 1.6 + 30;
  const under = grips + 34 + f * 2.6;
  const panel = free * (gradient ? 0.36 : 0.58);
  const second = under + panel + f * 4;
  const bottom = gradient ? second + panel : under + panel;
  return {
    font: f, narrow, left, right, top, rail, grips, under, panel, second,
    bottom, height: bottom + f * 2.8,
    x: scale(-EDGE, EDGE, left, right), z: scale(left, right, -EDGE, EDGE),
  };
}

function handles({ mu, sigma }, { x, z, grips }) {
  return [
    { key: "mu", x: x(mu), y: grips - 14, value: z, shape: "dot", kind: "blue", label: "Mean μ", text: `μ = ${fix(mu, 2)}` },
    { key: "sigma", x: x(mu + sigma), y: grips + 30, value: (px) => z(px) - mu, shape: "box", kind: "red", label: "Standard deviation σ", text: `σ = ${fix(sigma, 2)}` },
  ];
}

function draw(view, { x, left, right, top, rail, grips, under, panel, second, bottom, font, narrow }) {
  const { state, mu, sigma, eps, z } = view;
  const kindOf = (i, other) => view.falling[i] ? "green" : other;
  const ticks = narrow ? [-6, -3, 0, 3, 6] : [-6, -4, -2, 0, 2, 4, 6];
  const out = [];
  const axis = (y, name, marked = true) => {
    out.push(line("", left, y, right, y));
    if (marked) for (const t of ticks) {
      out.push(line("", x(t), y, x(t), y + 4), text(x(t), y + 4 + font, fix(t, 0), "middle", "mute halo"));
    }
    out.push(text(right, y - 6, name, "end", "halo bold"));
  };
  out.push(text(0, font, narrow ? "24 fixed ε, on strings to z = μ + σ·ε" : "24 fixed draws ε, each on a string to its sample z = μ + σ·ε"));
  out.push(line("faint", x(mu), rail, x(mu), grips + 30));
  axis(top, narrow ? "ε" : "ε, same scale", false);
  eps.forEach((e, i) => out.push(line(kindOf(i, "faint"), x(e), top, x(z[i]), rail)));
  axis(rail, "z");
  eps.forEach((e, i) => out.push(dot(kindOf(i, "open"), x(e), top, 4)));
  eps.forEach((e, i) => out.push(dot(kindOf(i, "red"), x(z[i]), rail, 4)));
  out.push(text(x(mu) - 16, grips - 14 + 5, "μ", "end", "halo bold"));
  out.push(line("red thick", x(mu), grips + 30, x(mu + sigma), grips + 30), 
    x(mu + sigma) + font * 6 > right ? text(x(mu) - 8, grips + 35, `σ = ${fix(sigma, 2)}`, "end", "halo bold")
      : text(x(mu + sigma) + 16, grips + 35, `σ = ${fix(sigma, 2)}`, "start", "halo bold"));
  const beside = mu > 0 ? left : right - font * (narrow ? 8 : 13);
  if (state.seen === "yes") out.push(line("green", beside, grips - 14, beside + 14, grips - 14), text(beside + 19, grips - 9, "z² falls: " + fallen(view, narrow)));
  else if (state.seen) out.push(text(beside, grips - 9, !state.guess ? "Predict first." : narrow ? "To σ = 2 \u2192" : "Drag the square to σ = 2 \u2192", "start", "bold"));

  if (state.part === "samples") {
    const peak = (24 * BIN) / (sigma * Math.sqrt(2 * Math.PI));
    const tall = Math.max(peak, ...view.counts) > 10 ? 20 : 10;
    const y = scale(0, tall, under + panel, under + font * 0.6);
    out.push(text(0, under - font * 0.4, narrow ? "samples per 0.5 of z; dashed: expected" : "samples per 0.5 of z; dashed: how many the density N(μ, σ²) expects"));
    view.counts.forEach((c, i) => {
      if (c) out.push(`<path class="bar" d="M${at(x(i * BIN - EDGE))} ${at(y(0))}V${at(y(c))}h${at(x(BIN) - x(0))}V${at(y(0))}Z"/>`);
    });
    for (const t of [0, tall / 2, tall]) out.push(text(left - 6, y(t) + 4, t, "end", "mute"));
    out.push(path("truth", range(57).map((i) => i / 4 - EDGE).map((v) => [x(v), y(peak * Math.exp(-0.5 * ((v - mu) / sigma) ** 2))])));
    axis(bottom, "");
    return out.join("");
  }
  const kind = { mu: "blue", sigma: "red" }[state.wrt];
  const name = SIGN[state.wrt];
  if (state.part === "arrows") {
    out.push(text(0, under - font * 0.4, narrow ? `∂z/∂${name}: arrow lengths on the z axis` : `∂z/∂${name} of each sample: an arrow from z, its length on the scale of z`));
    const step = panel / 25;
    view.arrows.forEach((a, i) => {
      const y = under + font * 0.3 + step * (24 - i);
      out.push(dot("open", x(z[i]), y, 2.5), arrow(kind, x(z[i]), y, clamp(x(z[i] + a), left, right), y));
    });
    axis(bottom, "z");
    return out.join("");
  }
  const floor = under + panel;
  const most = Math.max(...view.values.map((v, i) => v + Math.max(0, 0.3 * view.terms[i])));
  const high = state.f === "sine" ? 1.2 : [4, 9, 16, 25, 49, 81].find((b) => b >= most);
  const y = scale(state.f === "sine" ? -1.2 : 0, high, floor, under + font * 0.6);
  out.push(text(0, under - font * 0.4, narrow ? `f(z) = ${view.label}: sample steps as ${name} grows` : `f(z) = ${view.label}: where each sample goes when ${name} grows by 0.3`));
  for (const t of state.f === "sine" ? [-1, 0, 1] : [0, high]) out.push(text(left - 6, y(t) + 4, fix(t, 0), "end", "mute"));
  const curve = range(281).map((i) => i / 20 - EDGE).map((v) => [v, view.f(v)]).filter(([, b]) => b <= high);
  out.push(path("", curve.map(([a, b]) => [x(a), y(b)])));
  z.forEach((v, i) => {
    const d = 0.3 * view.arrows[i];
    const rise = 0.3 * view.terms[i];
    out.push(dot("open", x(v), y(view.values[i]), 3), arrow(kind, x(v), y(view.values[i]), clamp(x(v + d), left, right), y(view.values[i] + rise)));
  });
  out.push(line("", left, floor, right, floor));
  const reach = (sign) => [3, 6, 12, 24, 48].find((b) => view.terms.every((t) => sign * t <= b));
  const up = Math.max(reach(1), reach(-1) / 4), down = Math.max(reach(-1), reach(1) / 4);
  const g = scale(-down, up, bottom, second);
  out.push(text(0, second - font * 1.9, narrow ? `each f′(z)·∂z/∂${name}, and their mean` : `each sample's gradient f′(z)·∂z/∂${name}, and their mean`));
  for (const t of [-down, 0, up]) out.push(line("grid", left, g(t), right, g(t)), text(left - 4, g(t) + 4, fix(t, 0), "end", "mute"));
  view.terms.forEach((t, i) => out.push(arrow(kind, x(z[i]), g(0), x(z[i]), g(t), 4)));
  const [estimate, exact] = [view.estimates[state.wrt], view.exact[state.wrt]];
  out.push(line("thick " + kind, left, g(estimate), right, g(estimate)), line("truth", left, g(exact), right, g(exact)));
  out.push(line("thick " + kind, left, second - font * 0.9, left + 24, second - font * 0.9), text(left + 30, second - font * 0.5, `mean ${fix(estimate, 2)}`, "start", "halo"));
  out.push(line("truth", left + font * 9, second - font * 0.9, left + font * 9 + 24, second - font * 0.9), text(left + font * 9 + 30, second - font * 0.5, `exact ${fix(exact, 2)}`, "start", "halo"));
  for (const t of ticks) out.push(text(x(t), bottom + font * 1.3, fix(t, 0), "middle", "mute"));
  out.push(text(right, bottom + font * 2.5, "z", "end", "bold"));
  return out.join("");
}

const fallen = ({ falling }, narrow) => falling.filter(Boolean).length + (narrow ? "" : " of 24");
const later = (part) => (view) => view.state.seen === "yes" && (!part || part.includes(view.state.part));
const spec = {
  name: "mu-sigma-epsilon",
  title: "μ, σ, ε",
  fields: {
    guess: { among: ["", "all", "most", "half"] },
    seen: { among: ["no", "yes"] },
    mu: { min: -2, max: 2, step: 0.05 },
    sigma: { min: 0.25, max: 2.25, step: 0.05 },
    part: { among: ["samples", "arrows", "gradient"] },
    wrt: { among: ["mu", "sigma"] },
    f: { among: ["square", "sine"] },
  },
  given: ["claim", "noise"],
  stillState: { guess: "most", seen: "yes", sigma: 2 },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> At μ = 1, σ doubles from 1 to 2. For how many of the 24 samples does z² rise?",
    options: [["all", "For all"], ["most", "For most"], ["half", "For about half"]],
    verdict({ state, eps }) {
      const [words, why] = {
        all: ["for all", "ε between \u22122/3 and 0 brings z nearer to 0, and z² falls."],
        most: ["for most", "Only ε between \u22122/3 and 0 brings z nearer to 0."],
        half: ["for about half", "Not only where ε > 0: below \u22122/3, z swings past 0, and z² rises too."],
      }[state.guess];
      return `Your guess: <b>${words}</b>.` + (state.seen === "yes" ? ` Seen at μ = 1: z² rises for ${24 - eps.filter(falls(1)).length} of 24. ${why}` : "");
    },
  },
  controls: [
    { key: "mu", label: "Mean μ", text: (v) => fix(v, 2) },
    { key: "sigma", label: "Standard deviation σ", text: (v) => fix(v, 2) },
    { key: "part", label: "Look at", options: [["samples", "samples"], ["arrows", "∂z"], ["gradient", "× f′(z)"]], show: later() },
    { key: "wrt", label: "Derivative by", options: [["mu", "μ"], ["sigma", "σ"]], show: later(["arrows", "gradient"]) },
    { key: "f", label: "Function f", options: [["square", "z²"], ["sine", "sin z"]], show: later(["gradient"]) },
  ],
  moved(state) {
    if (state.sigma >= 1.95) state.seen = "yes";
  },
  status(view) {
    const { state, mu, sigma, eps, z } = view;
    if (!state.guess) return "Choose a prediction to unlock μ and σ.";
    const where = `μ = ${fix(mu, 2)}, σ = ${fix(sigma, 2)}`;
    const name = SIGN[state.wrt];
    if (state.part === "samples") return `${where}: samples from ${fix(z[0], 2)} to ${fix(z.at(-1), 2)}` + (state.seen === "yes" ? `; as σ goes from 1 to 2, z² falls for ${fallen(view)}.` : ".");
    if (state.part === "arrows") return state.wrt === "mu" ? `${where}: every ∂z/∂μ is 1.` : `${where}: ∂z/∂σ is ε, from ${fix(eps[0], 2)} to ${fix(eps.at(-1), 2)}, whatever μ and σ are.`;
    return `${where}, f = ${view.label}: the mean of 24 gradients by ${name} is ${fix(view.estimates[state.wrt], 2)}; exactly, it is ${fix(view.exact[state.wrt], 2)}.`;
  },
  goal: (view) => view.state.part === "gradient" && {
    text: "Make these 24 samples point the wrong way: with f = z², find μ and σ where the estimate of the σ-gradient is negative, although the exact one, 2σ, is positive.",
    done: view.state.f === "square" && view.estimates.sigma < 0,
    found: `The estimate is 2(μ·mean(ε) + σ·mean(ε²)) = ${fix(view.estimates.sigma, 3)}: a large |μ| multiplies the accident that mean(ε) = ${fix(mean(view.eps), 2)} is not 0. Unbiased is not exact.`,
  },
  story: (view) => view.state.seen === "yes"
    ? `<p><b>What was to be found.</b> ${view.state.claim} So ∂z/∂μ is 1 for all and ∂z/∂σ is ε; times f′(z), the mean over samples is the pathwise estimate of the gradient of E[f(z)].</p>` +
      `<p class="small"><b>Limits.</b> Twenty-four samples of one seed: the mean is off the exact gradient by chance, less with more samples. And f must not jump: f′(z) would miss the jump (below in this chapter).</p>` : "",
  table: (view) => ({
    caption: `All samples at μ = ${fix(view.mu, 2)}, σ = ${fix(view.sigma, 2)}, f = ${view.label}. Gradient by μ: mean ${fix(view.estimates.mu, 3)}, exact ${fix(view.exact.mu, 3)}; by σ: mean ${fix(view.estimates.sigma, 3)}, exact ${fix(view.exact.sigma, 3)}.`,
    head: ["ε = ∂z/∂σ", "z", "∂z/∂μ", "f′(z)·∂z/∂μ", "f′(z)·∂z/∂σ"],
    rows: view.eps.map((e, i) => [fix(e, 3), fix(view.z[i], 3), "1", fix(view.gradients.mu[i], 3), fix(view.gradients.sigma[i], 3)]),
  }),
};

const render = (widget) => explore(spec, widget);
export default { render, spec, readHash, writeHash };
