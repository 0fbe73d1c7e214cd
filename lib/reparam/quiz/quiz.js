// A quiz: one form per question, feedback for each answer, no score. All colors derive from
// the text color that surrounds it, so that light and dark themes need no detection.
const STYLE = `
:host { display: block; }
.quiz { max-width: 46rem; line-height: 1.5; text-align: left; overflow-wrap: anywhere; --line: color-mix(in srgb, currentColor 55%, transparent); }
form { margin: 0 0 1.25rem; }
fieldset { border: 1px solid var(--line); border-radius: 6px; margin: 0; padding: .25rem .9rem .9rem; min-width: 0; }
legend { float: left; width: 100%; padding: .5rem 0 .4rem; }
legend + * { clear: both; }
pre { margin: .3rem 0 .7rem; padding: .6rem .7rem; border-left: 3px solid var(--line); background: color-mix(in srgb, currentColor 7%, transparent); font-size: .85em; line-height: 1.45; white-space: pre-wrap; }
pre span { display: block; padding-left: 6ch; text-indent: -6ch; }
pre, code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font-size: .9em; }
.choice { display: flex; gap: .55rem; align-items: baseline; padding: .3rem 0; cursor: pointer; }
.choice :is(input, .letter) { flex: none; }
.choice input { width: 1.1rem; height: 1.1rem; margin: 0; transform: translateY(.15em); accent-color: #0072B2; }
[type=number], button { min-height: 34px; box-sizing: border-box; font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 4px; }
[type=number] { width: 8em; padding: .15rem .4rem; }
button { display: block; margin-top: .6rem; padding: .2rem 1rem; cursor: pointer; }
button:hover { background: color-mix(in srgb, currentColor 12%, transparent); }
:focus-visible { outline: 2px solid #fff; outline-offset: 2px; box-shadow: 0 0 0 2px #fff, 0 0 0 5px #0072B2; }
[role=status]:not(:empty) { margin: .8rem 0 0; padding-left: .75rem; border-left: 4px solid #D55E00; }
[role=status].right { border-left-color: #009E73; }
`;

const LETTERS = "abcdefgh";

// The option that an answer means: a letter, or a number within a relative tolerance.
function find(item, answer) {
  if (!item.numeric) return item.options[LETTERS.indexOf(answer)];
  return item.options.find(({ text }) => Math.abs(answer - text) <= item.tolerance * Math.abs(text));
}

function feedback(item, answer) {
  if (answer === "") return { html: item.numeric ? "Type a number first." : "Choose an answer first." };
  const option = find(item, answer);
  return option ? { html: option.why, right: option.correct } : { html: item.otherwise };
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function choices(item) {
  return item.options.map((option, i) => {
    const radio = element("input", { type: "radio", name: "answer", value: LETTERS[i] });
    const text = element("span", { innerHTML: option.text });
    const letter = element("span", { className: "letter" }, `${LETTERS[i]})`);
    return element("label", { className: "choice" }, radio, letter, text);
  });
}

function numberField() {
  const field = element("input", { type: "number", name: "answer", step: "any", autocomplete: "off" });
  return [element("label", {}, "Your number: ", field)];
}

function question(item) {
  const legend = element("legend", { innerHTML: `<strong>${item.id}</strong> ${item.prompt}` });
  const status = element("div", {});
  status.setAttribute("role", "status");
  const fieldset = element("fieldset", {}, legend);
  if (item.code) {
    // One block per line, so that a line too long for a phone hangs instead of faking indentation.
    const lines = item.code.split("\n").map((line) => element("span", {}, line || " "));
    fieldset.append(element("pre", {}, ...lines));
  }
  fieldset.append(
    ...(item.numeric ? numberField() : choices(item)),
    element("button", { type: "submit" }, "Check"),
    status,
  );
  const form = element("form", { noValidate: true }, fieldset);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const said = feedback(item, new FormData(form).get("answer") ?? "");
    status.className = said.right ? "right" : "";
    status.innerHTML = said.html;
  });
  // JupyterLab swallows the Enter that would submit a form by itself.
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.type !== "number") return;
    event.preventDefault();
    form.requestSubmit();
  });
  // An explanation belongs to the answer it explains: another answer clears it.
  form.addEventListener("input", () => status.replaceChildren());
  return form;
}

function render({ model, el }) {
  const page = element("div", { className: "quiz" }, element("style", {}, STYLE));
  page.append(...model.get("items").map(question));
  // JupyterLab would take arrow keys and letters for its own commands.
  el.dataset.lmSuppressShortcuts = "true";
  // Every host has rules of its own for buttons, code and legends: keep them out.
  el.attachShadow({ mode: "open" }).append(page);
}

export default { render };
