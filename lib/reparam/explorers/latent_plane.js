// Chapter 8: nine draws of one posterior in the plane of codes, each with the image it decodes to.
// Half the plane's side; the width of the decoder; which tile is traced; grays besides white.
const FRAME = 3, HIDDEN = 24, TRACED = 2, SHADES = 15;
const SIGMA = "σ ÷ the encoder’s σ";

const bytes = (text) => Int8Array.from(atob(text), (c) => c.charCodeAt(0));
const sum = (xs) => xs.reduce((total, x) => total + x, 0);
// A layer's numbers: its weights, row by row, then its biases, both kinds with a scale.
const layer = (numbers, [scale, shift], columns) => {
  const rows = numbers.length / (columns + 1);
  return (x) => range(rows).map((i) => {
    let total = 0;
    for (let j = 0; j < columns; j++) total += x[j] * numbers[i * columns + j];
    return scale * total + shift * numbers[rows * columns + i];
  });
};
const decoder = ({ weights, scales }) => {
  const numbers = bytes(weights), split = 3 * HIDDEN;
  const hidden = layer(numbers.slice(0, split), scales, 2), logits = layer(numbers.slice(split), scales.slice(2), HIDDEN);
  return (z) => logits(hidden(z).map((v) => Math.max(v, 0)));
};
const logp = (r) => Math.min(r, 0) - Math.log1p(Math.exp(-Math.abs(r)));

function model(state) {
  const { posterior } = state, x = [...state.x].map(Number), noise = decode(state.noise), logits = decoder(state);
  const score = (mu, s) => {
    const sigma = posterior.sigma.map((v) => s * v);
    const tiles = range(noise.length / 2).map((i) => {
      const eps = noise.slice(2 * i, 2 * i + 2), offset = eps.map((e, k) => sigma[k] * e);
      const z = offset.map((v, k) => mu[k] + v), pixels = logits(z);
      return {
        eps, offset, z, image: pixels.map((r) => Math.exp(logp(r))),
        ink: pixels.map((r) => (r >= 0 ? 1 : 0)).join(""),
        fit: sum(pixels.map((r, k) => logp(x[k] ? r : -r))),
      };
    });
    const fit = mean(tiles.map((tile) => tile.fit));
    const kl = sum(mu.map((m, k) => (m * m + sigma[k] ** 2 - 1) / 2 - Math.log(sigma[k])));
    return { mu, sigma, tiles, fit, kl, elbo: fit - kl };
  };
  const now = score([state.mu1, state.mu2], state.s), marks = bytes(state.codes);
  return {
    state, x, ...now, encoder: score(posterior.mu, 1), seen: state.seen === "yes",
    // In black and white.
    different: new Set(now.tiles.map((tile) => tile.ink)).size,
    codes: range(marks.length / 2).map((i) => [marks[2 * i] / 32, marks[2 * i + 1] / 32]),
  };
}

function layout({ width, font, room }) {
  const wide = width >= 38 * font, f = wide ? font : Math.min(font, 13);
  const left = f * 1.8, top = f * 3.2;
  const size = wide ? Math.min(width * 0.46, room ? room - f * 9 : 400) : Math.min(width - left - 4, 280);
  const right = left + size, bottom = top + size, rail = bottom + f * 3;
  const from = wide ? Math.round(right + f * 2) : 0, head = Math.round(wide ? top : rail + f * 7.2);
  const pixel = Math.floor((width - from) / 35.5), foot = head + 30 * pixel;
  return {
    font: f, left, top, size, right, bottom, rail, from, head, pixel, foot,
    height: Math.max(rail + f * 4, foot + f * 2.4),
    x: scale(-FRAME, FRAME, left, right), y: scale(-FRAME, FRAME, bottom, top), mu: scale(left, right, -FRAME, FRAME),
    along: scale(0, 3, left, right), s: scale(left, right, 0, 3),
  };
}

// Where x and the nine tiles stand, in units of a pixel.
const PLACES = [[0, 0], ...range(9).map((i) => [9 * (1 + (i % 3)), 10 * Math.floor(i / 3)])];
const images = ({ x, tiles }) => [x, ...tiles.map((tile) => tile.image)];
const pair = (v) => `(${v.map((x) => fix(x, 2)).join(", ")})`;
const nats = (v) => Number.isFinite(v) ? fix(v, 1) : v < 0 ? MINUS + "∞" : "∞";
function handles({ state, mu, seen }, { x, y, mu: value, rail, along, s }) {
  const size = { key: "s", x: along(state.s), y: rail, value: s, shape: "box", kind: "red", label: SIGMA, text: fix(state.s, 1) };
  return seen ? [size, { key: "mu1", x: x(mu[0]), y: y(mu[1]), value, shape: "dot", kind: "blue", label: "Mean μ", text: pair(mu) }] : [size];
}

function draw(view, l) {
  const { state, mu, tiles, encoder, codes, seen } = view;
  const { font, left, top, size, right, bottom, rail, from, head, pixel, foot, x, y } = l;
  const out = [], unit = size / (2 * FRAME), place = (z) => [x(z[0]), y(z[1])];
  const ellipse = (kind, { mu, sigma }) => {
    const [a, b] = place(mu), [r, q] = sigma.map((v) => at(2 * v * unit));
    return `<path class="${kind}" d="M${at(a - r)} ${at(b)}a${r} ${q} 0 1 0 ${2 * r} 0a${r} ${q} 0 1 0 ${-2 * r} 0Z"/>`;
  };
  const square = `d="M${at(left)} ${at(top)}H${at(right)}V${at(bottom)}H${at(left)}Z"/>`;
  out.push(text(0, font, `${codes.length} held-out digits at μ(x)`, "start", "bold"));
  const row = font * 2.4;
  out.push(line("blue", 0, row - 5, 22, row - 5), text(28, row, "2σ"), line("truth", font * 5, row - 5, font * 5 + 26, row - 5), text(font * 5 + 32, row, "2σ of the encoder"));
  out.push(`<clipPath id="map"><path ${square}</clipPath><path class="plane" ${square}`);
  for (const v of [-2, 2]) out.push(text(x(v), bottom + font * 1.2, fix(v, 0), "middle", "mute"), text(left - 5, y(v) + 4, fix(v, 0), "end", "mute"));
  out.push(text(right, bottom + font * 1.2, "z₁", "end", "bold"), text(left - 5, top + font, "z₂", "end", "bold"));
  // One text whose every character has a place of its own.
  const each = (kind, words, places) => out.push(`<text class="${kind}" text-anchor="middle" ` +
    ["x", "y"].map((name, k) => `${name}="${places.map((place) => Math.round(place[k])).join(" ")}"`).join(" ") + `>${words}</text>`);
  each("mute", state.labels, codes.map((z) => [x(z[0]), y(z[1]) + 4]));
  // The draws: each hangs on μ by its own offset σ ⊙ ε.
  const center = place(mu), ends = tiles.map(({ z }) => place(z)), end = ends[TRACED];
  out.push('<g clip-path="url(#map)">', ellipse("truth", encoder), ellipse("blue", view), ...ends.map((z) => line("", ...center, ...z)));
  out.push(line("red thick", ...center, ...end), ...ends.map((z) => dot("blue", ...z, 4)), box("red", ...end, 5), "</g>");
  const apart = range(9).filter((i) => Math.hypot(...tiles[i].offset) * unit > font && tiles[i].z.every((v) => Math.abs(v) < 2.6));
  each("halo bold", apart.map((i) => i + 1).join(""), apart.map((i) => [ends[i][0] + 12, ends[i][1] + 5]));
  out.push(`<path class="thick" d="M${at(left)} ${at(rail)}H${at(right)}"/>`);
  each("mute", "0123", range(4).map((v) => [l.along(v), rail + font * 2]));
  const hint = !state.guess ? "Predict first." : !seen ? "\u2190 Pull σ to 0" : !state.s ? "Pull it back \u2192" : "Drag μ, too";
  out.push(text(left, rail + font * 3.4, hint, "start", "bold"), text(right, rail + font * 3.4, SIGMA, "end"));

  // x and the tiles, in units of a pixel, with all pixels of one gray in one stroke.
  const strokes = range(SHADES + 1).map(() => "");
  images(view).forEach((image, i) => image.forEach((p, k) => {
    strokes[Math.round(SHADES * p)] += `M${PLACES[i][0] + (k % 8)} ${PLACES[i][1] + (k >> 3)}h1`;
  }));
  out.push(`<g class="tiles" shape-rendering="crispEdges" transform="translate(${from} ${head + pixel / 2})scale(${pixel})">`);
  strokes.forEach((d, k) => out.push(k ? `<path style="stroke:var(--ink);stroke-opacity:${k / SHADES}" d="${d}"/>` : ""));
  out.push("</g>");
  const corners = PLACES.map(([a, b]) => [from + a * pixel, head + b * pixel]), side = 8 * pixel;
  const frame = (kind, corners) => out.push(`<path class="${kind}" d="${corners.map(([a, b]) => `M${a} ${b}h${side}v${side}h${-side}Z`).join("")}"/>`);
  frame("", corners);
  frame("red thick", [corners[TRACED + 1]]);
  each("bold", "x123456789", corners.map(([a, b]) => [a + 5, b - 3]));
  out.push(text(from, head + 12 * pixel, `${view.different} of 9`, "start", "bold"), text(from, head + 12 * pixel + font * 1.3, "differ"));
  out.push(text(from, head - top + font, "z = μ + σ ⊙ ε, decoded", "start", "bold"));
  if (seen) out.push(text(from, foot + font * 0.2, `ELBO ${nats(view.elbo)} = ${nats(view.fit)} ${MINUS} KL ${nats(view.kl)} nats`), text(from, foot + font * 1.6, `the encoder’s ${nats(encoder.elbo)}`));
  return out.join("");
}

const GUESSES = { nine: "nine: each keeps its ε", few: "a few: near ones merge", one: "one" };
const seen = (view) => view.seen;
// In tenths of a nat, as shown: half a nat above the encoder.
const aim = (view) => Math.round(10 * view.encoder.elbo + 5);
const spec = {
  name: "latent-plane",
  title: "Nine draws in the latent plane",
  fields: {
    guess: { among: ["", ...Object.keys(GUESSES)] },
    seen: { among: ["no", "yes"] },
    s: { min: 0, max: 3, step: 0.1 },
    mu1: { min: -2.5, max: 2.5, step: 0.01 },
    mu2: { min: -2.5, max: 2.5, step: 0.01 },
  },
  given: ["claim", "posterior", "x", "noise", "weights", "scales", "codes", "labels"],
  stillState: { guess: "one", seen: "yes", s: 2 },
  model, layout, draw, handles,
  ask: {
    question: "<b>Predict first.</b> The encoder gives the image x a posterior: μ and σ, the ellipse. Nine tiles, each with its own fixed ε, show the decoder’s image of z = μ + σ ⊙ ε. As σ goes to 0, how many different images are left?",
    options: Object.entries(GUESSES),
    verdict: (view) => `Your guess: <b>${GUESSES[view.state.guess]}</b>.` +
      (view.seen ? " Seen: one. Each ε stays, times 0: z = μ." : ""),
  },
  controls: [
    { key: "s", label: SIGMA, text: (v) => fix(v, 1) },
    { key: "mu1", label: "Mean μ₁", text: (v) => fix(v, 2), nudge: 0.05, show: seen },
    { key: "mu2", label: "Mean μ₂", text: (v) => fix(v, 2), nudge: 0.05, show: seen },
  ],
  moved(state) {
    if (!state.s) state.seen = "yes";
  },
  status: (view) => !view.state.guess ? "Choose a prediction to unlock σ."
    : `σ = ${pair(view.sigma)}: ${view.different} of 9 images differ. Tile 3: z = μ + ${pair(view.tiles[TRACED].offset)}.` +
      (view.seen ? ` ELBO ${nats(view.elbo)}; the encoder’s ${nats(view.encoder.elbo)}.` : ""),
  goal: (view) => view.seen && {
    text: `Beat the encoder: an ELBO of ${nats(aim(view) / 10)} nats or more.`,
    done: 10 * view.elbo + 0.5 >= aim(view),
    found: "One network serves all images; a posterior for x alone gains the amortization gap.",
  },
  story: (view) => view.seen
    ? `<p><b>What was to be found.</b> ${view.state.claim} Small σ costs KL, without bound; large σ loses x.</p>` +
      `<p class="small"><b>Limits.</b> Two dimensions blur the images. Weights in 8 bits. Differ: a pixel passes ½. ELBO of nine draws. The encoder serves this x badly.</p>` : "",
  table: (view) => ({
    caption: `μ = ${pair(view.mu)}, σ = ${pair(view.sigma)}.`,
    head: ["Tile", "ε", "z", "log p(x|z)"],
    rows: view.tiles.map((tile, i) => [i + 1, pair(tile.eps), pair(tile.z), nats(tile.fit)]),
  }),
};

// The runtime's handles move sideways, in steps of their field, which are fine here. μ moves up and
// down, too, and by arrow keys in steps that can be seen: by way of its native controls.
function render(widget) {
  const stop = explore(spec, widget), root = widget.el.shadowRoot;
  const mine = ({ target }) => target.closest('.handle[aria-label="Mean μ"]');
  let off = 0;
  root.addEventListener("pointerdown", (event) => {
    if (!mine(event)) return;
    const { top, height } = mine(event).getBoundingClientRect();
    off = event.clientY - top - height / 2;
  });
  root.addEventListener("pointermove", (event) => {
    if (!mine(event)?.hasPointerCapture(event.pointerId)) return;
    const { top, bottom } = root.querySelector(".plane").getBoundingClientRect();
    const slider = root.querySelector('input[aria-label="Mean μ₂"]');
    slider.value = scale(bottom, top, -FRAME, FRAME)(event.clientY - off);
    slider.dispatchEvent(new Event("input"));
  });
  root.addEventListener("keydown", (event) => {
    const [, way] = /^Arrow(.)/.exec(event.key) || [];
    if (!way || !mine(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    root.querySelector(`[aria-label="Mean ${"UD".includes(way) ? "μ₂" : "μ₁"}: ${"UR".includes(way) ? "more" : "less"}"]`).click();
  }, true);
  return stop;
}
export default { render, spec };
