// Chapter 7: a list of estimators; facts about a problem strike lines out, with reasons.
// All of what it says comes from Python (methods.py): methods, facts and cards.
const ASKED = ["z", "f", "density", "support", "bias"];

function model(state) {
  const { facts, methods, cards, card, last } = state;
  const answers = {};
  for (const key of ASKED) answers[key] = state[key] in facts[key][1] ? state[key] : "";
  const against = (wants) => ASKED.filter((key) => answers[key] && wants[key] && wants[key] !== answers[key]);
  const rows = methods.map(([name, call, wants, needs, bias, variance, evaluations, normal, chapter, section, preset]) => ({
    name, call, needs, bias, variance, chapter, section, preset, against: against(wants),
    evaluations, normal,
    reasons: against(wants).map((key) => facts[key][2][answers[key]] + (key === "bias" ? ` (${bias})` : "")),
  }));
  const [title, words, picks, truth] = cards[card];
  return {
    state, answers, rows, title, words, picks, left: rows.filter((r) => !r.reasons.length),
    pick: rows[state.guess],
    set: ASKED.filter((key) => answers[key]).length,
    // Facts that are not as the card says.
    wrong: ASKED.filter((key) => answers[key] && answers[key] !== truth[key]),
    // What the last answer strikes out, and no other does.
    fresh: rows.filter((r) => r.against.join() === last),
  };
}

// What Sphinx makes the address of a heading.
const slug = (heading) => "#" + heading.toLowerCase().match(/[a-z0-9]+/g).join("-");

// A section of a chapter's page, or its explorer, where this page links to the chapter; elsewhere words.
function chapter(number, words, hash) {
  const page = globalThis.document && [...document.links].find((a) => a.pathname.includes(`/${number}-`));
  return page ? `<a href="${page.href.split("#")[0]}${hash}">${words}</a>` : words;
}

const shown = (row) => `<li><details><summary><b>${row.name}</b> bias: ${row.bias}; f evaluated ${row.evaluations} times</summary>` +
  `<p>Needs ${row.needs}. Variance: ${row.variance}.${row.normal ? ` Evaluations of f for a Normal: ${row.normal}.` : ""}<br>` +
  `<code>${row.call}</code> <button aria-label="Copy the call of ${row.name}">Copy</button> ` + chapter(row.chapter, `chapter ${row.chapter}: ${row.section}`, slug(row.section)) +
  (row.preset ? ", " + chapter(3, "see it in Two histograms (chapter 3)", `#two-histograms:guess=yes&amp;n=200&amp;bet=score&amp;opened=02&amp;${row.preset}`) : "") + "</p></details></li>";
const gone = (row) => `<li class="gone"><s>${row.name}</s> ${row.reasons.join("; ")}</li>`;
const names = (rows) => rows.map((r) => r.name).join("; ");

function radios(key) {
  return { key, build(change, state) {
    const [question, answers] = state.facts[key];
    const row = make("fieldset", {}, make("legend", { textContent: question }));
    const inputs = [["", "not said"], ...Object.entries(answers)].map(([value, words]) => {
      const input = make("input", { type: "radio", name: key, value });
      input.onchange = () => change(key, value, row);
      row.append(make("label", {}, input, words));
      return input;
    });
    return { row, show() { for (const input of inputs) input.checked = state[key] === input.value; } };
  } };
}
const cards = (before) => ({ key: "card", before, build(change, state) {
  const row = make("div", { className: "row cards", data: { role: "group", "aria-label": "Case card" } }, make("span", { className: "label", textContent: "Case card" }));
  const buttons = state.cards.map(([title], i) => {
    const button = make("button", { textContent: title });
    button.onclick = () => {
      change("card", String(i), row);
      row.getRootNode().querySelectorAll(".cards:not([hidden]) button")[i].focus({ preventScroll: true });
    };
    row.append(button);
    return button;
  });
  return { row, show() { buttons.forEach((button, i) => put(button, { "aria-pressed": state.card === String(i) })); } };
} });

const spec = {
  name: "chooser",
  title: "Which estimator?",
  fields: {
    card: { among: ["0", "1", "2", "3"] },
    guess: { among: ["", ...range(15).map(String)] },
    last: { among: ["", ...ASKED] },
    ...Object.fromEntries(ASKED.map((key) => [key, { like: /^[a-z]*$/ }])),
  },
  given: ["claim", "methods", "facts", "cards"],
  style: `
.figure{display:none}
fieldset{border:0;margin:6px 0;padding:0;display:flex;flex-wrap:wrap;gap:0 14px}legend{float:left;padding:0;font-weight:700}
label{display:flex;align-items:center;gap:6px;min-height:28px;cursor:pointer}
fieldset input{width:24px;height:24px;margin:0;accent-color:var(--blue)}
.story{container-type:inline-size}ul{list-style:none;margin:0 0 8px;padding:0}li{border-bottom:1px solid var(--grid);padding:3px 0;font-size:.93em}
li details{margin:0}summary{overflow-wrap:anywhere}li p{margin:4px 0 4px 18px}
.gone{color:var(--mute);padding-left:18px}
@container (min-width:560px){li :is(b,s){display:inline-block;min-width:16.5em}}
code{font-size:1em;user-select:all;overflow-wrap:anywhere}
li button{min-height:28px;padding:0 8px}
@media(min-width:1000px){dialog .x>.story{grid-column:1;grid-row:2/99}}`,
  model,
  layout: () => ({ height: 0, font: 14 }), draw: () => "", handles: () => [],
  ask: {
    question: (view) => `<b>${view.title}.</b> ${view.words}` + (view.state.guess ? "" : " <b>Predict first.</b> Which would you call?"),
    options: (view) => view.picks.map((name) => [String(view.rows.findIndex((r) => r.name === name)), name]),
    verdict: ({ pick, set, wrong, state }) => `Your pick: <b>${pick.name}</b>` +
      (pick.reasons.length ? `, struck out: ${pick.reasons.join("; ")}.` : set ? ", not struck out so far." : ".") +
      (set < ASKED.length ? "" : wrong.length ? ` The card says otherwise about this: ${wrong.map((key) => state.facts[key][0].toLowerCase()).join("; ")}.` : ""),
  },
  controls: [cards(true), ...ASKED.map(radios), cards(false)],
  moved(state, key) {
    if (ASKED.includes(key)) state.last = key;
    if (key === "card") for (const other of ["guess", "last", ...ASKED]) state[other] = "";
  },
  status({ state, left, fresh, answers, rows }) {
    if (!state.guess) return "Read the card and pick an estimator.";
    const count = `${left.length} of ${rows.length} estimators are left.`;
    const { last, facts } = state;
    if (!last) return `${count} Now answer the five questions as the card does.`;
    const [question, words, reasons] = facts[last], answer = answers[last];
    return `${question} ${words[answer] || "not said"}: strikes out ${fresh.length ? `${names(fresh)} (${reasons[answer]})` : "nothing more"}. ${count}`;
  },
  goal: ({ state, left, pick, picks, set, wrong }) => state.guess && {
    text: `Answer all five as the card does. Your pick survives or falls.`,
    done: set === ASKED.length && !wrong.length,
    found: pick.reasons.length ? `It falls: ${pick.reasons.join("; ")}. Of the card's four survive: ${names(left.filter((r) => picks.includes(r.name)))}.`
      : `It survives, with ${left.length - 1} others: bias, variance and evaluations of f decide between them.`,
  },
  story: ({ state, rows, set, left }) => state.guess ?
    (set === ASKED.length ? `<p><b>What was to be found.</b> ${state.claim}` + (left.length > 1 ? ` Hold the ${left.length} that are left here against the exact gradient on your own f: reparam.measure.compare.` :
      left.length ? "" : " Here nothing is left. Something must give: make f smooth, write the density down, or accept a bias and measure it.") + "</p>" +
      "<p class=\"small\"><b>Limits.</b> The list knows what each needs, not which varies least on your f: that depends on f (chapter 3). The score function's density must not move its support.</p>" : "") +
    `<ul>${rows.map((row) => row.reasons.length ? gone(row) : shown(row)).join("")}</ul>` +
    "<p class=\"small\">Evaluations of f for each gradient: K is num_samples, D the number of variables, C the classes of each (2 for bits).</p>" : "",
};

function render(widget) {
  const stop = explore(spec, widget);
  widget.el.shadowRoot.addEventListener("click", async ({ target }) => {
    if (!target.matches("li button")) return;
    const code = target.previousElementSibling;
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      target.textContent = "Copied";
    } catch (refused) {}
  });
  return stop;
}
export default { render, spec, readHash, writeHash };
