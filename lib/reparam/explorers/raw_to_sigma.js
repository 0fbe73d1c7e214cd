// Chapter 4: five maps from an encoder's raw output r to σ, in the arithmetic of three dtypes.
const END = 20, STEP = 0.05, MEAN = 2, BOUND = 10;
const RS = range((2 * END) / STEP + 1).map((i) => Number((i * STEP - END).toFixed(2)));

// To the nearest number of a dtype, ties to even: by way of float32, as torch computes.
const MAGIC = 1.5 * 2 ** 52;
const rounder = (digits, low, high) => (x) => {
  const y = Math.fround(x);
  if (!y || !Number.isFinite(y)) return y;
  const unit = 2 ** (Math.max(low, Math.floor(Math.log2(Math.abs(y)))) + 1 - digits);
  const z = (y / unit + MAGIC - MAGIC) * unit;
  return Math.abs(z) > high ? z * Infinity : z;
};
const DTYPES = {
  float32: Math.fround,
  bfloat16: rounder(8, -126, Infinity),
  float16: rounder(11, -14, 65504),
  real: (x) => x,
};

// Each gives σ, log σ², and what takes a slope by log σ² back to r, every operation rounded by o.
const fromLog = (logVar, o, back) => [o(Math.exp(o(logVar / 2))), logVar, back];
const MAPS = {
  hand: { label: "log(1 + eʳ)", go(r, o) {
    const e = o(Math.exp(r)), a = o(1 + e), s = o(Math.log(a));
    return [s, o(2 * o(Math.log(s))), (g) => o(o(o(2 * g) / s) / a) * e];
  } },
  softplus: { label: "softplus", go(r, o) {
    const e = Math.exp(r), s = o(Math.log1p(e));
    return [s, o(2 * o(Math.log(s))), (g) => (o(o(2 * g) / s) * e) / (e + 1)];
  } },
  exp: { label: "exp(r/2)", go: (r, o) => fromLog(r, o, (g) => g) },
  clamp: { label: "clamp", go: (r, o) => fromLog(clamp(r, -BOUND, BOUND), o, (g) => Math.abs(r) > BOUND ? 0 : g) },
  // As the library has it, rounded once.
  bound: { label: "bound", go(r, o) {
    const t = r / BOUND, c = 1 / Math.sqrt(1 + t * t);
    return fromLog(o(r * c), o, (g) => g * c ** 3);
  } },
};
const KEYS = Object.keys(MAPS);
const TYPES = Object.keys(DTYPES).slice(0, 3);
// σ, the KL at μ = 0, (σ² - 1 - log σ²) / 2, and its slope by r.
function evaluate(map, dtype, raw) {
  const o = DTYPES[dtype], [sigma, logVar, back] = MAPS[map].go(o(raw), o);
  const e = o(Math.exp(logVar));
  return { sigma, kl: o(o(o(e - 1) - logVar) / 2), slope: o(back(o(o(e / 2) - 0.5))) };
}
// "" for an ordinary number. Near r = 0 the KL has its minimum: a zero there is no event.
const kindOf = (v, r) => Number.isFinite(v) ? (v || Math.abs(r) < 3 ? "" : "0") : Number.isNaN(v) ? "NaN" : v > 0 ? "∞" : MINUS + "∞";
const ROWS = ["sigma", "kl", "slope"];
const known = new Map();
// Where a curve is what kind of number: [{kind, from, to, points}].
const runsOf = (map, dtype) => once(map + dtype, () => {
  const runs = { sigma: [], kl: [], slope: [] };
  const kinds = (r, row) => kindOf(evaluate(map, dtype, r)[row], r);
  for (const r of RS) {
    const values = evaluate(map, dtype, r);
    for (const row of ROWS) {
      const kind = kindOf(values[row], r);
      let run = runs[row].at(-1);
      if (!run || run.kind !== kind) {
        let a = r - STEP, b = r;
        if (run) {
          for (const _ of range(12)) kinds((a + b) / 2, row) === run.kind ? a = (a + b) / 2 : b = (a + b) / 2;
          run.to = b;
        }
        runs[row].push(run = { kind, from: b, points: [] });
      }
      run.to = r;
      run.points.push([r, values[row]]);
    }
  }
  return runs;
});

function model(state) {
  const { map, dtype, r } = state;
  const o = DTYPES[dtype], eps = decode(state.noise);
  const all = Object.fromEntries(KEYS.map((key) => {
    const now = evaluate(key, dtype, r);
    const z = eps.map((e) => o(MEAN + o(now.sigma * o(e))));
    return [key, { ...now, z, distinct: new Set(z).size }];
  }));
  const real = evaluate(map === "hand" ? "softplus" : map, "real", r);
  return { state, all, eps, real, realZ: eps.map((e) => MEAN + real.sigma * e), ...all[map] };
}

const sup = (n) => String(n).replace(/./g, (c) => c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]);
const num = (x) => {
  const kind = kindOf(x, END), [digits, power] = Math.abs(x).toExponential(2).split("e");
  return kind || (x < 0 ? MINUS : "") + (power > -4 && power < 4 ? Number(Math.abs(x).toPrecision(3)) : `${digits}·10${sup(Number(power))}`);
};
const numbers = (n) => `${n} number${n > 1 ? "s" : ""}`;
const TICKS = { sigma: [-8, -4, 0, 4], kl: [0, 10, 20], slope: [-1, 0, 1] };
const ENDS = { sigma: [-9, 5], kl: [0, 20], slope: [-1.5, 2] };

function layout({ width, font, room }) {
  const narrow = width < 34 * font;
  const f = narrow ? Math.min(font, 13) : font;
  const [left, right] = [f * 3, width - f * 0.8];
  const row = f * 1.6, free = Math.max(210, (room || 570) - f * 22);
  const y = {}, top = {}, foot = {};
  let end = 0;
  for (const [key, share] of [["sigma", 0.5], ["kl", 0.24], ["slope", 0.26]]) {
    top[key] = end + f * 2 + row;
    foot[key] = top[key] + share * free;
    y[key] = scale(...ENDS[key], foot[key], top[key]);
    end = foot[key] + (key === "kl" ? f * 0.3 : row);
  }
  const strip = end + f * 3.4;
  return {
    font: f, narrow, left, right, row, y, top, foot, strip, height: strip + f * 4.3,
    x: scale(-END, END, left, right), r: scale(left, right, -END, END),
    // Where a value stands: beyond the panel's ends, in the rows for what no axis holds.
    place(key, v, r) {
      const kind = kindOf(v, r);
      if (kind && (kind !== "0" || key === "sigma")) return kind === "0" || kind[0] === MINUS ? foot[key] + row * 0.6 : top[key] - row * 0.6;
      return y[key](clamp(key === "sigma" ? Math.log10(v) : v, ...ENDS[key]));
    },
  };
}

function handles({ state, sigma }, { x, r, place }) {
  return [{ key: "r", x: x(state.r), y: place("sigma", sigma, state.r), value: r, shape: "dot", kind: "red", label: "Raw output r", text: `r = ${fix(state.r, 2)}, σ = ${num(sigma)}` }];
}

// Without the points that the rest shows well enough (Douglas and Peucker).
const thin = (points) => {
  const [a, b] = [points[0], points.at(-1)];
  let far = 1, k = 0;
  points.forEach(([x, y], i) => {
    const off = Math.abs(y - scale(a[0], b[0], a[1], b[1])(x));
    if (off > far) [far, k] = [off, i];
  });
  return k ? [...thin(points.slice(0, k + 1)), ...thin(points.slice(k)).slice(1)] : [a, b];
};
// Curves stand still while r moves.
const once = (name, make) => known.get(name) || known.set(name, make()).get(name);
// A curve, without what lies beyond the panel's top.
const curve = (kind, points, top) => {
  const parts = [[]];
  points.forEach((point, i) => {
    if (points.slice(Math.max(0, i - 1), i + 2).some(([, y]) => y > top)) parts.at(-1).push(point);
    else parts.push([]);
  });
  return parts.map((part) => part.length ? path(kind, thin(part)) : "").join("");
};

function draw(view, { font, narrow, left, right, x, y, top, foot, row, strip, place }) {
  const { state, real, eps, z, realZ, distinct } = view;
  const seen = state.seen === "yes", own = state.map === "hand" ? "softplus" : state.map;
  // Marks of a kind stand together, which keeps the still picture small.
  const grid = [], grays = [], curves = [], bars = [], truths = [], out = [], labels = [];
  const names = { sigma: narrow ? "σ" : "σ (log axis)", kl: "KL at μ = 0, nats", slope: "∂KL/∂r" };
  const level = (height, words) => {
    grid.push(line("grid", left, height, right, height));
    labels.push(`<tspan x="${at(left - 5)}" y="${at(height + 4)}">${words}</tspan>`);
  };
  const end = foot.slope + row;
  for (const t of [-20, -10, 0, 10, 20]) {
    grid.push(line("grid", x(t), top.sigma, x(t), end));
    out.push(text(x(t), end + font * 1.1, fix(t, 0), "middle", "mute"));
  }
  out.push(text(x(15), end + font * 1.1, narrow ? "r" : "raw output r", "middle", "bold"));
  grays.push(line("faint", x(state.r), top.sigma - row, x(state.r), end));
  for (const key of ROWS) {
    const high = top[key];
    const where = [key, right, high, foot[key]].join();
    const exact = (kind, map) => once(kind + map + where, () => curve(kind, RS.filter((r, i) => i % 4 === 0).map((r) => [x(r), place(key, evaluate(map, "real", r)[key], END)]), high));
    for (const t of TICKS[key]) level(y[key](t), key === "sigma" ? (t ? "10" + sup(t) : "1") : fix(t, 0));
    level(place(key, Infinity), "∞");
    if (key !== "kl") level(place(key, key === "sigma" ? 0 : -Infinity, END), key === "sigma" ? "0" : MINUS + "∞");
    if (seen) {
      for (const map of KEYS.slice(1)) if (map !== own) grays.push(exact("faint", map));
      const runs = runsOf(state.map, state.dtype)[key];
      for (const { kind, from, to, points } of runs) {
        if (!kind) {
          curves.push(once([state.map, state.dtype, from, where].join(), () => curve("red thick", points.map(([r, v]) => [x(r), place(key, v, r)]), high)));
          continue;
        }
        const height = place(key, points[0][1], END), west = from <= -END;
        bars.push(`M${at(x(from))} ${at(height)}H${at(x(to))}`);
        out.push(text(Math.max(x((from + to) / 2), left + font * 1.3), height + 5, kind === "0" && !narrow ? "exactly 0" : kind, "middle", "halo bold"));
        if (key === "sigma" || runs.filter((run) => run.kind).length < 2) out.push(text(x(west ? to : from) + (west ? 6 : -6), height + 5, `${west ? "up to" : "from"} r = ${fix(west ? to : from, 2)}`, west ? "start" : "end", "halo"));
      }
    }
    truths.push(exact("truth", own));
    const head = high - row - font * 0.5;
    out.push(text(left, head, `${names[key]}: ${num(view[key])}`, "start", "bold halo"));
    if (key === "sigma") out.push(text(right, head, `exact ${num(real.sigma)}`, "end", "halo"));
    else out.push(dot("red", x(state.r), place(key, view[key], state.r), 5));
  }
  for (const [map, r, down] of seen ? [["softplus", -14, 1.2], ["exp", -14, 1.2], ["clamp", -END, 1.1], ["bound", -END, -0.4]] : []) {
    out.push(text(x(r) + 4, place("sigma", evaluate(map, "real", r).sigma) + font * down, map, "start", "halo mute"));
  }
  const hint = !state.guess ? "Predict first." : seen ? "" : "\u2190 Drag the dot left";
  if (hint) out.push(text(x(-END) + 6, top.sigma + font * 1.5, hint, "start", "halo bold"));

  const span = 1.05 * Math.max(3 * real.sigma, ...z.filter(Number.isFinite).map((v) => Math.abs(v - MEAN)));
  const rail = scale(MEAN - span, MEAN + span, left, right), low = strip + font * 2.2;
  out.push(text(0, strip - font * 0.8, narrow ? `24 draws, stored as ${numbers(distinct)}` : `24 draws 2 + σ·ε, exact above; stored below as ${numbers(distinct)}`, "start", "bold"));
  out.push(line("", left, strip, right, strip), line("", left, low, right, low));
  const stored = z.map((v) => rail(clamp(v, MEAN - span, MEAN + span)));
  const far = z.includes(Infinity);
  out.push(...eps.map((e, i) => line("faint", rail(realZ[i]), strip, stored[i], low)));
  out.push(...[...new Set(stored)].map((s) => dot("red", s, low, 4)));
  for (const [a, words, anchor] of [[left, far ? MINUS + "∞" : `2 ${MINUS} ${num(span)}`, "start"], [rail(MEAN), "2", "middle"], [right, far ? "∞" : `2 + ${num(span)}`, "end"]]) out.push(text(a, low + font * 1.5, words, anchor, "mute"));
  return [grid, grays, curves, `<path class="green" style="stroke-width:6" d="${bars.join("")}"/>`, truths, text(0, 0, labels.join(""), "end", "mute"), out].flat().join("");
}

const GUESSES = { never: "nowhere: eʳ > 0", under: `below about ${MINUS}90, where eʳ underflows`, snap: `below about ${MINUS}6` };
const seen = (view) => view.state.seen === "yes";
const said = ({ sigma, kl, slope, distinct }) =>
  `σ = ${num(sigma)}, KL = ${num(kl)}, gradient ${num(slope)}; the 24 draws are stored as ${numbers(distinct)}`;
const spec = {
  name: "raw-to-sigma",
  title: "Raw output to σ",
  fields: {
    guess: { among: ["", ...Object.keys(GUESSES)] },
    seen: { among: ["no", "yes"] },
    r: { min: -END, max: END, step: STEP },
    map: { among: KEYS },
    dtype: { among: TYPES },
  },
  given: ["claim", "noise"],
  stillState: { guess: "snap", seen: "yes", r: -7 },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> In bfloat16, an encoder's raw output r becomes σ = log(1 + eʳ), written by hand as it stands here. Where is σ exactly 0?",
    options: Object.entries(GUESSES),
    verdict: (view) => `Your guess: <b>${GUESSES[view.state.guess]}</b>.` +
      (seen(view) ? ` Seen: from r = ${MINUS}5.55 down. There eʳ is 0.0039, far from 0, and 1 + eʳ rounds to 1: bfloat16 has 8 bits.` : ""),
  },
  controls: [
    { key: "r", label: "Raw output r", nudge: 0.5, text: (v) => fix(v, 2) },
    { key: "map", label: "Map", options: KEYS.map((key) => [key, MAPS[key].label]), show: seen },
    { key: "dtype", label: "dtype", options: TYPES.map((key) => [key, key]), show: seen },
  ],
  moved(state) {
    if (evaluate(state.map, state.dtype, state.r).sigma === 0) state.seen = "yes";
  },
  status: (view) => !view.state.guess ? "Choose a prediction to unlock r."
    : `${MAPS[view.state.map].label} in ${view.state.dtype} at r = ${fix(view.state.r, 2)}: ${said(view)}.`,
  goal: (view) => seen(view) && {
    text: `At r = ${MINUS}12, in sixteen bits: find a map and a dtype with σ > 0, a gradient that is finite and not 0, and at least 12 different numbers stored for the 24 draws.`,
    done: view.state.r === -12 && view.state.dtype !== "float32" && view.sigma > 0 && Number.isFinite(view.slope) && view.slope !== 0 && view.distinct >= 12,
    found: "The bound keeps σ above 0.0067 and its slope alive; float16 has 11 bits for z where bfloat16 has 8. Its price: it ends at 65504.",
  },
  story: (view) => seen(view)
    ? `<p><b>What was to be found.</b> ${view.state.claim} In float16 it is 0 from ${MINUS}7.62 down, in float32 from ${MINUS}16.64. ` +
      `<code>softplus</code> adds no 1 before its logarithm, and in <code>exp(r/2)</code>, r = log σ², nothing cancels; but eʳ overflows float16 at 11.09. ` +
      `Beyond a clamp (r in ±10) the gradient is 0 and no unit comes back; <code>bound_log_var</code> keeps a slope. ` +
      `And a good σ can be lost in z: at μ = 2, σ = 0.001, bfloat16 stores all 24 draws as one number.</p>` +
      `<p class="small"><b>Limits.</b> Every operation is rounded, as in a model that is itself cast; CUDA's autocast takes exp and log in float32. ` +
      `KL: (σ² ${MINUS} 1 ${MINUS} log σ²)/2 as it stands; <code>gaussian_kl</code> uses float32 and refuses ∞. Gray: the other maps, exactly.</p>` : "",
  table: (view) => ({
    caption: `All maps at r = ${fix(view.state.r, 2)} in ${view.state.dtype}; exactly, ${MAPS[view.state.map].label} has σ = ${num(view.real.sigma)}, KL ${num(view.real.kl)} and gradient ${num(view.real.slope)}.`,
    head: ["Map", "σ", "KL", "∂KL/∂r", "numbers stored for 24 draws"],
    rows: (seen(view) ? KEYS : [view.state.map]).map((key) => {
      const { sigma, kl, slope, distinct } = view.all[key];
      return [MAPS[key].label, num(sigma), num(kl), num(slope), distinct];
    }),
  }),
};

const render = (widget) => explore(spec, widget);
export default { render, spec, evaluate, readHash, writeHash };
