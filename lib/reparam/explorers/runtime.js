// What the explorers share. An explorer hands `explore` a spec:
//   name, title               its name in a link, and its heading
//   given                     what Python alone decides: the claim, the noise
//   fields                    the state that changes: {key: {min, max, step} | {among} | {like}}
//   model(state)              every number on show, a pure function of the state
//   layout(size), draw(view, layout)
//                             the picture for a size {width, font, room}, a string of SVG
//   handles(view, layout)     what can be dragged: [{key, x, y, value(x), shape, label, text}]
//   controls                  native controls: [{key, label, text | options | build, show}]
//   ask, moved, status, story, goal, table
//                             the question, bookkeeping after a change, and the words
//   style                     CSS of its own, where it needs any
// What `question` and `options` of `ask` are may depend on the view. Handles and controls wait for
// the prediction; those marked `before` are what it is made with, and go when it is made.
const MINUS = "\u2212";
const fix = (x, digits) => {
  const text = Math.abs(x).toFixed(digits);
  return (x < 0 && Number(text) !== 0 ? MINUS : "") + text;
};
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const mean = (xs) => xs.reduce((sum, x) => sum + x, 0) / xs.length;
const range = (n) => Array.from({ length: n }, (_, i) => i);
const scale = (from, to, a, b) => (x) => a + ((x - from) / (to - from)) * (b - a);

// Noise travels as little-endian 16-bit multiples of 1/4096, in base64.
const decode = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return [...new Int16Array(bytes.buffer)].map((i) => i / 4096);
};

const at = (x) => Math.round(x * 10) / 10;
const line = (kind, x1, y1, x2, y2) =>
  `<line class="${kind}" x1="${at(x1)}" y1="${at(y1)}" x2="${at(x2)}" y2="${at(y2)}"/>`;
const path = (kind, points) =>
  `<path class="${kind}" d="M${points.map(([x, y]) => `${at(x)} ${at(y)}`).join("L")}"/>`;
const dot = (kind, x, y, r) => `<circle class="${kind}" cx="${at(x)}" cy="${at(y)}" r="${r}"/>`;
const box = (kind, x, y, r) =>
  `<rect class="${kind}" x="${at(x - r)}" y="${at(y - r)}" width="${2 * r}" height="${2 * r}"/>`;
const text = (x, y, words, anchor = "start", kind = "") =>
  `<text class="${kind}" x="${at(x)}" y="${at(y)}" text-anchor="${anchor}">${words}</text>`;
const arrow = (kind, x1, y1, x2, y2, size = 5) => {
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 1) return line(kind, x1, y1, x2, y2);
  const [u, v] = [(x2 - x1) / length, (y2 - y1) / length];
  const s = Math.min(size, length);
  const wing = (t) => `${at(x2 - s * u - t * s * v * 0.6)} ${at(y2 - s * v + t * s * u * 0.6)}`;
  return line(kind, x1, y1, x2, y2) +
    `<path class="${kind} head" d="M${at(x2)} ${at(y2)}L${wing(1)}L${wing(-1)}Z"/>`;
};
const shapes = { dot, box };

const LIGHT = "--paper:#fff;--ink:#1b1b1b;--mute:#595959;--line:#767676;--grid:#e0e0e0;--faint:#8c8c8c";
const DARK = "--paper:#121212;--ink:#ececec;--mute:#b8b8b8;--line:#8c8c8c;--grid:#333;--faint:#777";
const HUES = "--blue:#0072b2;--red:#d55e00;--green:#009e73";
const MARKS = `
text{fill:var(--ink);font-family:system-ui,sans-serif}
.mute{fill:var(--mute)}.bold{font-weight:700}
line,path{fill:none;stroke:var(--line);stroke-width:1}
.grid{stroke:var(--grid)}
.faint{stroke:var(--faint);stroke-width:.8}
.truth{stroke:var(--ink);stroke-width:2;stroke-dasharray:7 5}
.red{stroke:var(--red);stroke-width:1.5}.blue{stroke:var(--blue);stroke-width:2}
.green{stroke:var(--green);stroke-width:2}
circle.red,rect.red,.head.red{fill:var(--red);stroke:none}
circle.blue,rect.blue,.head.blue{fill:var(--blue);stroke:none}
circle.green,rect.green,.head.green{fill:var(--green);stroke:none}
.open{fill:var(--paper)!important;stroke:var(--line)!important;stroke-width:1.2!important}
.bar{fill:var(--faint);stroke:var(--paper)}
.thick{stroke-width:3}
circle.ring,rect.ring{fill:none;stroke:var(--ink);stroke-width:2}
.halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
`;
const PAGE = `
:host{display:block}
.x{${LIGHT};${HUES};color-scheme:light;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums;border:1px solid var(--line);border-radius:8px;
padding:12px;box-sizing:border-box;max-width:860px;margin:0 auto;text-align:left}
.x.dark{${DARK};color-scheme:dark}
.x *{box-sizing:border-box}
p{margin:0 0 8px}.title{font-weight:700;font-size:1.1em;margin:0}
.figure{position:relative}
svg{display:block;overflow:visible}${MARKS}
button,input{font:inherit;color:inherit}
button{min-width:40px;min-height:40px;padding:4px 10px;background:var(--paper);
border:1px solid var(--line);border-radius:6px;cursor:pointer}
button[aria-pressed=true]{background:var(--ink);color:var(--paper)}
:focus-visible,.handle:focus-visible .ring{outline:3px solid var(--blue);outline-offset:2px}
.handle:focus{outline:none}.handle:focus-visible .ring{stroke:var(--blue);stroke-width:4}
.handle{cursor:grab}.handle *{touch-action:none}.handle:active{cursor:grabbing}
.handle.off{cursor:not-allowed}
.row{display:flex;flex-wrap:wrap;gap:6px 8px;align-items:center;margin:8px 0}
.row>.label{flex:0 0 10.5em}
.row>.label:has(b){flex-basis:100%}
.narrow .row>.label{flex-basis:100%;margin-bottom:-6px}
.row input{flex:1 1 40px;min-width:40px;height:32px;margin:0;accent-color:var(--blue)}
.out{min-width:3.5em}
.status{border-left:4px solid var(--blue);padding-left:8px;min-height:1.45em}
.goal{border-left:4px solid var(--green);padding-left:8px}
.small,.tools{font-size:.9em}
.link{width:100%}
details{margin:8px 0}summary{cursor:pointer;min-height:28px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9em}
caption{text-align:left}
th,td{padding:2px 10px 2px 0;text-align:right;border-bottom:1px solid var(--grid)}
[hidden]{display:none!important}
dialog{border:0;padding:0;margin:0;width:100vw;height:100vh;max-width:none;max-height:none;background:none}
dialog .x{max-width:none;min-height:100%;border:0;border-radius:0;padding:20px;font-size:20px}
@media(min-width:1000px){dialog .x{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);
gap:0 32px;align-content:start}dialog .x>*{grid-column:2}dialog .x>.title{grid-column:1/3}
dialog .x>.figure{grid-column:1;grid-row:2/99}}
`;

const make = (tag, properties = {}, ...children) => {
  const { data, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  put(node, data);
  node.append(...children);
  return node;
};
const put = (node, attributes) => {
  for (const name in attributes) node.setAttribute(name, attributes[name]);
};

// Only what a field allows gets in, from a link or from anywhere.
const admit = (field, value) => {
  if (field.among) return field.among.includes(value) ? value : undefined;
  if (field.like) return field.like.test(value) ? value : undefined;
  const x = value === "" ? NaN : Number(value);
  return Number.isFinite(x) ? snap(field, x) : undefined;
};
const snap = ({ min, max, step }, x) =>
  Number(clamp(min + Math.round((x - min) / step) * step, min, max).toFixed(6));

// One hash for all explorers of a page: #name:key=value&…;other-name:key=value
const segments = (hash) =>
  hash.replace(/^#/, "").split(";").filter((part) => part.includes(":"));
const readHash = (hash, name) => {
  const found = segments(hash).find((part) => part.startsWith(name + ":"));
  return found === undefined ? null : new URLSearchParams(found.slice(name.length + 1));
};
const writeHash = (hash, name, values) => {
  const others = segments(hash).filter((part) => !part.startsWith(name + ":"));
  return (values ? [`${name}:${values}`, ...others] : others).join(";");
};

function stateOf(spec, get) {
  const state = {};
  for (const key of [...Object.keys(spec.fields), ...spec.given]) state[key] = get(key);
  return state;
}

function explore(spec, { model, el }) {
  const twins = document.querySelectorAll(`[data-explorer="${spec.name}"]`).length;
  el.dataset.explorer = spec.name;
  const name = twins ? `${spec.name}-${twins + 1}` : spec.name;
  const state = stateOf(spec, (key) => model.get(key));
  const start = { ...state };
  const framed = window.top !== window;
  let view, layout, width = 0;

  const root = (el.shadowRoot || el.attachShadow({ mode: "open" }));
  const say = make("p", { className: "status", data: { role: "status" } });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const picture = document.createElementNS(svg.namespaceURI, "g");
  put(picture, { "aria-hidden": true });
  put(svg, { role: "group", "aria-label": spec.title + ", figure" });
  svg.append(picture);
  const figure = make("div", { className: "figure" }, svg);
  const verdict = make("p", { className: "guess" });
  const answers = make("div", { className: "row", data: { role: "group" } });
  const asked = make("p");
  const panel = make("div", { className: "panel" });
  const story = make("div", { className: "story" }), goal = make("p", { className: "goal" });
  const table = make("table"), caption = make("p", { className: "small" });
  const link = make("input", { className: "link", readOnly: true, hidden: true, data: { "aria-label": "Link to this state" } });
  const copy = make("button", { textContent: "Copy link to this state", hidden: framed });
  const present = make("button", { textContent: "Present", hidden: framed });
  const reset = make("button", { textContent: "Reset" });
  const body = make("div", { className: "body" });
  const box = make("section", { className: "x", data: { "aria-label": spec.title } });
  const dialog = make("dialog", { data: { "aria-label": spec.title } });
  root.append(make("style", { textContent: PAGE + (spec.style || "") }), box, dialog);

  // Where focus goes when the button that had it goes away.
  const front = () => root.querySelector(".handle:not(.off),.panel>:not([hidden]) :is(button,input)").focus({ preventScroll: true });
  const change = (key, value, row) => { set(key, value); settle(); if (row.hidden) front(); };
  const controls = spec.controls.map((control) => {
    if (control.build) return { control, ...control.build(change, state) };
    const field = spec.fields[control.key];
    const label = make("span", { className: "label", innerHTML: control.label });
    const row = make("div", { className: "row", data: { role: "group", "aria-label": label.textContent } }, label);
    if (control.options) {
      const buttons = control.options.map(([value, words]) => {
        const button = make("button", { innerHTML: words });
        button.onclick = () => change(control.key, value, row);
        row.append(button);
        return [value, button];
      });
      return { control, row, show() {
        for (const [value, button] of buttons) {
          put(button, { "aria-pressed": state[control.key] === value });
        }
      } };
    }
    const words = label.textContent;
    const input = make("input", { type: "range", min: field.min, max: field.max, step: field.step, data: { "aria-label": words } });
    const out = make("span", { className: "out", data: { "aria-hidden": "true" } });
    const nudge = (sign, sigil, how) => {
      const button = make("button", { textContent: sigil, data: { "aria-label": `${words}: ${how}` } });
      button.onclick = () => { set(control.key, state[control.key] + sign * (control.nudge || field.step)); settle(); };
      return button;
    };
    const [less, more] = [nudge(-1, MINUS, "less"), nudge(1, "+", "more")];
    input.oninput = () => set(control.key, Number(input.value));
    input.onchange = settle;
    row.append(less, input, more, out);
    return { control, row, show(view) {
      const value = control.text(state[control.key], view);
      input.value = state[control.key];
      put(input, { "aria-valuetext": value });
      out.textContent = value;
    } };
  });
  put(answers, { "aria-label": "Your prediction" });

  panel.append(...controls.map((c) => c.row), say, goal);
  body.append(
    make("p", { className: "title", textContent: spec.title }), asked, answers, verdict, figure, panel, story,
    make("details", { hidden: !spec.table }, make("summary", { textContent: "The numbers as a table" }), caption,
      make("div", { className: "scroll", tabIndex: 0, data: { role: "region", "aria-label": "Table" } }, table)),
    make("div", { className: "row tools" }, reset, copy, present), link);
  box.append(...body.childNodes);

  // Handles stay in the document, so that focus and pointer capture survive a redraw.
  const grips = new Map();
  function grip(h) {
    const field = spec.fields[h.key];
    const g = document.createElementNS(svg.namespaceURI, "g");
    const off = () => g.classList.contains("off");
    put(g, { class: "handle", role: "slider", "aria-label": h.label, "aria-valuemin": field.min, "aria-valuemax": field.max });
    g.innerHTML = '<circle r="22" fill="transparent"/><g></g>';
    let held = null;
    g.onpointerdown = (event) => {
      if (off() || event.button) return;
      event.preventDefault();
      g.focus();
      g.setPointerCapture(event.pointerId);
      held = event.clientX - grips.get(h.key).x;
    };
    // Scrolling must not take the gesture over; `touch-action` alone does not reach inside an SVG.
    g.addEventListener("touchstart", (event) => { if (!off()) event.preventDefault(); }, { passive: false });
    g.onpointermove = (event) => {
      if (held !== null) set(h.key, grips.get(h.key).value(event.clientX - held));
    };
    g.onlostpointercapture = () => { if (held !== null) { held = null; settle(); } };
    g.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -1e9, End: 1e9 }[event.key];
      if (by === undefined || off() || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      set(h.key, clamp(state[h.key] + by * field.step, field.min, field.max));
      later();
    };
    svg.append(g);
    return g;
  }

  function paint() {
    view = spec.model(state);
    const font = dialog.open ? 18 : 14;
    box.classList.toggle("narrow", width < 480);
    layout = spec.layout({ width, font, room: dialog.open && innerHeight - 90 }, view);
    put(svg, { width, height: layout.height, viewBox: `0 0 ${width} ${layout.height}`, "font-size": layout.font });
    picture.innerHTML = spec.draw(view, layout);
    const waits = (thing) => !state.guess === !thing.before;
    for (const { g } of grips.values()) put(g, { display: "none", class: "handle off" });
    for (const h of spec.handles(view, layout)) {
      if (!grips.has(h.key)) grips.set(h.key, { g: grip(h) });
      const g = Object.assign(grips.get(h.key), h).g;
      g.lastChild.innerHTML = shapes[h.shape](h.kind, 0, 0, 10) + shapes[h.shape]("ring", 0, 0, 10);
      const off = waits(h);
      put(g, {
        transform: `translate(${at(h.x)} ${at(h.y)})`, display: "", tabindex: off ? -1 : 0,
        "aria-valuenow": state[h.key], "aria-valuetext": h.text, "aria-disabled": off,
      });
      g.classList.toggle("off", off);
    }
    for (const c of controls) {
      c.row.hidden = waits(c.control) || Boolean(c.control.show && !c.control.show(view));
      c.show(view);
    }
  }
  function words() {
    const told = (words) => typeof words === "function" ? words(view) : words;
    asked.innerHTML = told(spec.ask.question);
    answers.replaceChildren(...told(spec.ask.options).map(([value, words]) => {
      const button = make("button", { innerHTML: words });
      button.onclick = () => change("guess", value, answers);
      return button;
    }));
    answers.hidden = Boolean(state.guess);
    verdict.innerHTML = state.guess ? spec.ask.verdict(view) : "";
    verdict.hidden = !state.guess;
    const target = spec.goal(view);
    const news = spec.status(view) + (target && target.done ? " The goal is reached." : "");
    if (say.textContent !== news) say.textContent = news;
    goal.hidden = !target;
    if (target) goal.innerHTML = `<b>Goal.</b> ${target.text} ${target.done ? `<b>\u2713 Reached.</b> ${target.found}` : "<i>Not yet.</i>"}`;
    story.innerHTML = spec.story(view);
    if (!spec.table) return;
    const rows = spec.table(view);
    caption.textContent = rows.caption;
    table.innerHTML = `<thead><tr>${rows.head.map((t) => `<th scope="col">${t}</th>`).join("")}</tr></thead><tbody>` +
      rows.rows.map((r) => `<tr>${r.map((t) => `<td>${t}</td>`).join("")}</tr>`).join("") + "</tbody>";
  }
  function set(key, value) {
    const next = admit(spec.fields[key], value);
    if (next === undefined || next === state[key]) return;
    state[key] = next;
    spec.moved(state, key);
    paint();
  }
  let timer;
  const later = () => { clearTimeout(timer); timer = setTimeout(settle, 400); };
  function values() {
    const changed = new URLSearchParams();
    for (const key of Object.keys(spec.fields)) if (state[key] !== start[key]) changed.set(key, state[key]);
    return ((dialog.open ? "present&" : "") + changed).replace(/&$/, "");
  }
  function address() {
    // Frames without an address of their own refuse this: the figure works all the same.
    try {
      const hash = writeHash(location.hash, name, values());
      if (hash || segments(location.hash).length) history.replaceState(history.state, "", "#" + hash);
    } catch (refused) {}
  }
  function settle() {
    clearTimeout(timer);
    words();
    address();
    for (const key of Object.keys(spec.fields)) model.set(key, state[key]);
    model.save_changes();
  }
  function resize() {
    const now = Math.floor(figure.clientWidth);
    if (now < 50 || now === width) return;
    width = now;
    paint();
  }
  function show(open) {
    if (open === dialog.open) return;
    if (open) { dialog.append(box); dialog.showModal(); } else { dialog.close(); root.append(box); }
    present.textContent = open ? "Close" : "Present";
    width = 0;
    resize();
    address();
  }
  dialog.oncancel = (event) => { event.preventDefault(); show(false); present.focus(); };
  present.onclick = () => { show(!dialog.open); present.focus(); };
  reset.onclick = () => { Object.assign(state, start); link.hidden = true; paint(); settle(); };
  copy.onclick = async () => {
    link.value = `${location.href.split("#")[0]}#${name}:${values()}`;
    try {
      await navigator.clipboard.writeText(link.value);
      say.textContent = "The link to this state is on the clipboard.";
    } catch (refused) {
      link.hidden = false;
      link.select();
      say.textContent = "Copy the selected link.";
    }
  };

  function arrive() {
    const given = readHash(location.hash, name);
    if (!given) return false;
    Object.assign(state, start);
    for (const [key, value] of given) {
      const next = spec.fields[key] && admit(spec.fields[key], value);
      if (next !== undefined) state[key] = next;
    }
    return true;
  }
  function follow() {
    if (!arrive()) return;
    paint();
    words();
    show(!framed && readHash(location.hash, name).has("present"));
    if (!dialog.open && segments(location.hash)[0].startsWith(name + ":")) el.scrollIntoView();
  }

  // Themes: Sphinx, Colab, JupyterLab and VS Code say theirs; else the system's counts.
  const system = matchMedia("(prefers-color-scheme: dark)");
  function theme() {
    const [page, body] = [document.documentElement, document.body];
    const said = page.dataset.theme || page.getAttribute("theme") ||
      { true: "light", false: "dark" }[body.dataset.jpThemeLight] ||
      (/vscode-(dark|light|high-contrast)/.exec(body.className) || [])[1];
    box.classList.toggle("dark", /dark|light/.test(said) ? said === "dark" : system.matches);
  }
  const watch = new MutationObserver(theme);
  for (const node of [document.documentElement, document.body]) watch.observe(node, { attributes: true });
  system.addEventListener("change", theme);
  const sizes = new ResizeObserver(resize);
  sizes.observe(figure);
  window.addEventListener("hashchange", follow);

  theme();
  arrive();
  width = Math.floor(figure.clientWidth) || 600;
  paint();
  words();
  follow();
  return () => {
    watch.disconnect();
    sizes.disconnect();
    system.removeEventListener("change", theme);
    window.removeEventListener("hashchange", follow);
  };
}
