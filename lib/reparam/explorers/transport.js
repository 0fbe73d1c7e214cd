// Chapter 5: twenty even u, across to the CDF and down to z, and how fast each z answers θ.
const COUNT = 20;
// Unit exponential quantile; and the standard normal density and CDF, by its series.
const expo = (u) => -Math.log1p(-u);
const bell = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const below = (x) => {
  let term = x, sum = x;
  for (let n = 3; Math.abs(term) > 1e-18; n += 2) sum += term *= (x * x) / n;
  return 0.5 + bell(x) * sum;
};
// Two hills of the mixture: their means are ±HILL, their standard deviation is WIDE.
const HILL = 2, WIDE = 0.7;
const hills = (g) => (z, w) => (1 - w) * g((z + HILL) / WIDE) + w * g((z - HILL) / WIDE);
const bisect = (F) => (u, w) => {
  let low = -9, high = 9;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (F(middle, w) < u) low = middle; else high = middle;
  }
  return (low + high) / 2;
};
// Of each: its inverse CDF z, CDF F, density p and, by it, ∂F/∂θ; the ends of its axis; what the speed is.
const FAMILIES = {
  exponential: {
    label: "exponential", sign: "λ", name: "rate θ", ends: [0, 4], rule: "\u2212z/λ",
    z: (u, t) => expo(u) / t, F: (z, t) => -Math.expm1(-t * z), p: (z, t) => t * Math.exp(-t * z), by: (z, t, p) => (z / t) * p,
  },
  logistic: {
    label: "logistic", sign: "μ", name: "location θ", ends: [-4, 8], rule: "1: a location moves all alike",
    z: (u, t) => t + Math.log(u / (1 - u)), F: (z, t) => 1 / (1 + Math.exp(t - z)), p: (z, t) => 0.25 / Math.cosh((z - t) / 2) ** 2, by: (z, t, p) => -p,
  },
  gumbel: {
    label: "Gumbel", sign: "β", name: "scale θ", ends: [-4, 12], rule: "z/β: away from 0, to both sides",
    z: (u, t) => -t * Math.log(-Math.log(u)), F: (z, t) => Math.exp(-Math.exp(-z / t)), p: (z, t) => Math.exp(-z / t - Math.exp(-z / t)) / t, by: (z, t, p) => (-z / t) * p,
  },
  weibull: {
    label: "Weibull", sign: "k", name: "concentration θ", ends: [0, 8], rule: "\u2212z·ln z/k: all run to the scale, 1, and what is there stays",
    z: (u, t) => expo(u) ** (1 / t), F: (z, t) => -Math.expm1(-(z ** t)), p: (z, t) => t * z ** (t - 1) * Math.exp(-(z ** t)), by: (z, t, p) => (z * Math.log(z) * p) / t,
  },
  kumaraswamy: {
    label: "Kumaraswamy", sign: "a", name: "θ (b = 2)", ends: [0, 1], rule: "\u2212z·ln z/a: all to the right, none past 1",
    z: (u, t) => (1 - Math.sqrt(1 - u)) ** (1 / t), F: (z, t) => 1 - (1 - z ** t) ** 2, p: (z, t) => 2 * t * z ** (t - 1) * (1 - z ** t), by: (z, t, p) => (z * Math.log(z) * p) / t,
  },
  cauchy: {
    label: "Cauchy", sign: "γ", name: "scale θ", ends: [-16, 16], rule: "z/γ: the tails run away",
    z: (u, t) => t * Math.tan(Math.PI * (u - 0.5)), F: (z, t) => 0.5 + Math.atan(z / t) / Math.PI, p: (z, t) => t / Math.PI / (z * z + t * t), by: (z, t, p) => (-z / t) * p,
  },
  mixture: {
    label: "two Gaussians", sign: "π", name: "right hill's weight θ", ends: [-4, 4], rule: "found without a formula for F⁻¹, which there is not",
    z: bisect(hills(below)), F: hills(below), p: (z, w) => hills(bell)(z, w) / WIDE, by: (z) => below((z - HILL) / WIDE) - below((z + HILL) / WIDE),
  },
};
const RACE = 100;

function model(state) {
  const family = FAMILIES[state.family], { sign } = family;
  const mixed = state.family === "mixture";
  const knob = mixed ? "weight" : "theta";
  const [theta, start, nudge] = [state[knob], mixed ? 0.5 : 1, mixed ? 0.02 : 0.2];
  const u = range(COUNT).map((i) => (i + 0.5) / COUNT);
  const z = u.map((v) => family.z(v, theta));
  const density = z.map((v) => family.p(v, theta));
  const gap = z.map((v, k) => -family.by(v, theta, density[k]));
  const speed = gap.map((g, i) => g / density[i]);
  const size = speed.map(Math.abs);
  const i = state.trace - 1;
  return {
    state, family, knob, u, z, density, gap, speed, i,
    shown: {
      theta, start, nudge, sign, ticks: mixed ? [0.25, 0.5, 0.75] : [1, 1.5, 2],
      now: `${sign} = ${fix(theta, mixed ? 3 : 2)}`, before: `${sign} = ${start}`,
    },
    from: family.z(u[i], start),
    fastest: size.indexOf(Math.max(...size)),
    seen: state.seen === "yes",
  };
}

// Three digits that stay put while dragging.
const tell = (x) => fix(x, Math.abs(x) < 0.0995 ? 4 : Math.abs(x) < 0.995 ? 3 : Math.abs(x) < 9.95 ? 2 : 1);

function layout({ width, font, room }, view) {
  const narrow = width < 34 * font;
  const f = narrow ? Math.min(font, 13) : font;
  const [left, right] = [f * 2.4, width - f * 0.9];
  const rail = f * 1.6 + 20;
  const top = rail + f * (narrow ? 6.6 : 5) + 10;
  const arrows = view.seen ? (room ? room * 0.2 : 100) : 0;
  const floor = room ? room - f * 3.6 - room * 0.2 : top + (narrow ? 200 : 230);
  const { min, max } = spec.fields[view.knob];
  return {
    font: f, narrow, left, right, top, floor, rail, arrows: floor + f * 2.9, step: arrows / COUNT,
    height: floor + f * (arrows ? 3.2 : 1.6) + arrows + 4,
    x: scale(...view.family.ends, left + 12, right), y: scale(0, 1, floor, top),
    t: scale(min, max, left + 12, right - 12), value: scale(left + 12, right - 12, min, max),
  };
}

const handles = ({ knob, shown }, { t, rail, value }) => [
  { key: knob, x: t(shown.theta), y: rail, value, shape: "dot", kind: "blue", label: "Parameter θ", text: shown.now },
];

function draw(view, { font, narrow, left, right, top, floor, arrows, step, rail, x, y, t }) {
  const { state, family, shown, u, z, speed, i } = view;
  const out = [], [low, high] = family.ends;
  const inside = (v) => v >= low && v <= high;
  // Through all samples, and as even as between them.
  const curve = (v) => [...range(21).map((k) => low + ((high - low) * k) / 20), ...u.map((w) => family.z(w, v)).filter(inside)]
    .sort((a, b) => a - b).map((a) => [x(a), y(family.F(a, v))]);
  const { min, max } = spec.fields[view.knob];
  const hint = !state.guess ? "Predict first." : view.seen ? "" : narrow ? "to λ = 2 \u2192" : "Drag the dot to λ = 2 \u2192";
  out.push(text(0, font, family.name.replace("θ", shown.now), "start", "bold"), line("", t(min), rail, t(max), rail));
  if (hint) out.push(text(right, font, hint, "end", "bold"));
  for (const v of shown.ticks) out.push(line("", t(v), rail - 4, t(v), rail + 4), text(t(v), rail + font + 9, v, "middle", "mute"));
  const rows = range(3).map((k) => top - font * (0.9 + 1.3 * (narrow ? 2 - k : k ? 0 : 1)));
  const second = narrow ? 0 : font * 15;
  out.push(text(0, rows[0], narrow ? "20 fixed u: across to F(z), down to z" : "20 fixed u, each across to the curve u = F(z) and down to its sample z"),
    line("blue thick", 0, rows[1] - font * 0.4, 26, rows[1] - font * 0.4), text(31, rows[1], `F at ${shown.now}`),
    line("truth", second, rows[2] - font * 0.4, second + 26, rows[2] - font * 0.4), text(second + 31, rows[2], `F at the start, ${shown.before}`));
  for (const v of [0, 0.5, 1]) out.push(line("grid", left, y(v), right, y(v)), text(left - 10, y(v) + 4, v, "end", "mute"));
  out.push(text(left - 10, y(0.75) + 4, "u", "end", "bold"));
  // The rays: what leaves the picture is counted at its edge.
  const ray = (k) => `<path class="${k === i ? "green" : "faint"}" d="M${at(left)} ${at(y(u[k]))}H${at(x(clamp(z[k], low, high)))}${inside(z[k]) ? "V" + at(floor) : ""}"/>`;
  out.push(...range(COUNT).filter((k) => k !== i).map(ray), ray(i));
  out.push(path("truth", curve(shown.start)), path("blue thick", curve(shown.theta)), line("", left, floor, right, floor));
  if (view.seen && inside(view.from)) {
    // The traced sample's gap between the curves, and its slide.
    out.push(line("thick", x(view.from), y(u[i]), x(view.from), y(family.F(view.from, shown.theta))));
    if (inside(z[i])) out.push(arrow("green thick", x(view.from), y(u[i]), x(z[i]), y(u[i]), 8));
  }
  for (const v of range(5).map((k) => low + ((high - low) * k) / 4)) {
    out.push(line("", x(v), floor, x(v), floor + 4), text(x(v), floor + 5 + font, fix(v, v % 1 ? 2 : 0), v < high ? "middle" : "end", "mute"));
  }
  out.push(text(right, floor - 6, "z", "end", "halo bold"));
  u.forEach((v) => out.push(dot("open", left, y(v), 3.5)));
  z.forEach((v, k) => { if (k !== i && inside(v)) out.push(dot("red", x(v), floor, 4)); });
  if (inside(z[i])) out.push(dot("green", x(z[i]), floor, 4));
  const beyond = (test) => z.filter(test).length;
  const [before, after] = [beyond((v) => v < low), beyond((v) => v > high)];
  if (before) out.push(text(left + 14, floor - font * 1.6, `\u2190 ${before} farther`, "start", "halo bold"));
  if (after) out.push(text(right, floor - font * 1.6, `${after} farther \u2192`, "end", "halo bold"));
  if (!view.seen) return out.join("");
  out.push(text(0, arrows - font * 0.2, `arrows: dz/d${shown.sign} times ${shown.nudge}, from each z`));
  const row = (k) => arrows + step * (COUNT - k), near = range(COUNT).filter((k) => inside(z[k]));
  out.push(...near.map((k) => dot("open", x(z[k]), row(k), 2)));
  // Equal marks side by side, which the still picture joins.
  const marks = near.map((k) => arrow(k === i ? "green" : "red", x(z[k]), row(k), x(clamp(z[k] + shown.nudge * speed[k], low, high)), row(k)));
  return out.join("") + marks.join("").split(/(?<=>)/).sort().join("");
}

const seen = (view) => view.seen;
const spec = {
  name: "transport",
  title: "Transport: from u to z",
  fields: {
    guess: { among: ["", "smallest", "middle", "largest", "alike"] },
    seen: { among: ["no", "yes"] },
    family: { among: Object.keys(FAMILIES) },
    theta: { min: 0.6, max: 2.4, step: 0.05 },
    weight: { min: 0.1, max: 0.9, step: 0.025 },
    trace: { min: 1, max: COUNT, step: 1 },
  },
  given: ["claim"],
  stillState: { guess: "largest", seen: "yes", theta: 2 },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> Twenty even u become samples z = F⁻¹(u) of the exponential distribution with rate λ = 1. The rate doubles. Which sample moves farthest?",
    options: [["smallest", "The smallest z"], ["middle", "The middle one"], ["largest", "The largest z"], ["alike", "All alike"]],
    verdict({ state }) {
      const [words, why] = {
        smallest: ["the smallest z", "Near 0 the density is high, and the curves start from one point."],
        middle: ["the middle one", "The gap between the curves is widest near there, but the density is thinner in the tail."],
        largest: ["the largest z", "The gap between the curves is small there, the density smaller still."],
        alike: ["all alike", "That is what a location does: look at the logistic's μ."],
      }[state.guess];
      return `Your guess: <b>${words}</b>.` + (state.seen === "yes" ? ` Seen: the largest, from 3.69 to 1.84. ${why}` : "");
    },
  },
  controls: [
    { key: "theta", label: "Parameter θ", text: (v, { shown }) => shown.now, show: (view) => view.knob === "theta" },
    { key: "weight", label: "Weight π", text: (v) => fix(v, 3), show: (view) => view.knob === "weight" },
    { key: "family", label: "<b>Distribution</b>", options: Object.entries(FAMILIES).map(([key, { label }]) => [key, label]), show: seen },
    { key: "trace", label: "Traced sample", text: (v) => `u = ${fix((v - 0.5) / COUNT, 3)}`, show: seen },
  ],
  moved(state, key) {
    if (key === "family") Object.assign(state, { theta: 1, weight: 0.5 });
    if (state.theta >= 1.95) state.seen = "yes";
  },
  status(view) {
    const { state, family, shown: { sign, now }, u, z, gap, density, speed, i, fastest } = view;
    if (!state.guess) return "Choose a prediction to unlock the parameter.";
    if (!view.seen) return `${now}: z from ${tell(z[0])} to ${tell(z.at(-1))}. Drag to λ = 2.`;
    return `${family.label}, ${now}. Traced u = ${fix(u[i], 3)}: z = ${tell(z[i])}, gap \u2212∂F/∂${sign} = ${tell(gap[i])}, density ${tell(density[i])}, so dz/d${sign} = ${tell(speed[i])}. ` +
      (state.family === "logistic" ? "All move alike." : `Fastest: u = ${fix(u[fastest], 3)}, dz/d${sign} = ${tell(speed[fastest])}.`);
  },
  goal: (view) => view.seen && {
    text: `Let one sample race: find a distribution and a parameter where |dz/dθ| of the fastest is above ${RACE}.`,
    done: Math.abs(view.speed[view.fastest]) > RACE,
    found: `It is between the hills, where the density is ${tell(view.density[view.fastest])}: what changes sides crosses where hardly anything is. Across an empty gap it would have to jump: a discrete choice has no such derivative (chapter 7).`,
  },
  story: (view) => view.seen
    ? `<p><b>What was to be found.</b> ${view.state.claim} The gray bar is the traced sample's gap, the green arrow its slide. For ${view.family.label === "two Gaussians" ? "the two Gaussians" : `the ${view.family.label}`}, dz/d${view.family.sign} is ${view.family.rule}.</p>` +
      `<p class="small"><b>Limits.</b> Even u show the map; they are no random draws. Bar and green arrow are whole steps from the dashed curve; only in small ones is the arrow the bar over the density. In several dimensions other slides keep u, too.</p>` : "",
  table: (view) => ({
    caption: `All samples: ${view.family.label}, ${view.shown.now}. The gap is \u2212∂F/∂${view.family.sign}.`,
    head: ["u", "z", "gap", "p(z)", `dz/d${view.family.sign}`],
    rows: view.u.map((v, i) => [fix(v, 3), ...[view.z, view.gap, view.density, view.speed].map((list) => tell(list[i]))]),
  }),
};

const render = (widget) => explore(spec, widget);
export default { render, spec };
