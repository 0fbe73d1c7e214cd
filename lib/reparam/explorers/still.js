// The still picture of an explorer, as SVG text: only for the build, never in a page.
function still(spec, start) {
  const state = { ...start, ...spec.stillState };
  const size = { width: 620, font: 14, room: 380 };
  const view = spec.model(state);
  const layout = spec.layout(size, view);
  const words = state.claim.split(" ").reduce((lines, word) => {
    if ((lines.at(-1) + word).length > 84) lines.push("");
    lines[lines.length - 1] += word + " ";
    return lines;
  }, [""]);
  const top = 30 + 20 * words.length;
  const heading = text(10, 22, spec.title, "start", "bold") +
    words.map((words, i) => text(10, 44 + 20 * i, words.trim())).join("");
  const handles = spec.handles(view, layout)
    .map((h) => shapes[h.shape](h.kind, h.x, h.y, 8) + shapes[h.shape]("ring", h.x, h.y, 8)).join("");
  const height = Math.round(layout.height + top);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="${height}" ` +
    `viewBox="0 0 640 ${height}" font-size="14"><style>svg{${LIGHT};${HUES}}` +
    `STYLE</style><rect width="640" height="${height}" fill="#fff"/>` +
    `${heading}<g transform="translate(10 ${top})">${spec.draw(view, layout)}${handles}</g></svg>\n`;
  const picture = short(svg);
  return picture.replace("STYLE", MARKS.trim().split("\n").filter(used(svg)).join(""));
}

// Rules for classes that the picture has, and rules for no class.
const used = (svg) => (rule) => {
  const classes = [...rule.matchAll(/\.([a-z]+)/g)].map((m) => m[1]);
  return !classes.length || classes.some((name) => new RegExp(`class="([a-z ]* )?${name}[ "]`).test(svg));
};

// Runs of equal marks become one mark, which keeps the picture's data address short.
function short(svg) {
  const run = (element) => new RegExp(`${element}(?:${element.replace("(?<kind>[a-z ]*)", "\\k<kind>").replace("(?<r>[\\d.]+)", "\\k<r>")})+`, "g");
  const lines = svg.replace(/<line class="([a-z ]*)" x1="([^"]*)" y1="([^"]*)" x2="([^"]*)" y2="([^"]*)"\/>/g,
    '<path class="$1" d="M$2 $3L$4 $5"/>');
  const joined = lines.replace(run('<path class="(?<kind>[a-z ]*)" d="[^"]*"/>'), (marks, kind) =>
    `<path class="${kind}" d="${[...marks.matchAll(/ d="([^"]*)"/g)].map((m) => m[1]).join("")}"/>`);
  const disks = joined.replace(run('<circle class="(?<kind>[a-z ]*)" cx="[^"]*" cy="[^"]*" r="(?<r>[\\d.]+)"/>'), (marks, kind, r) => {
    const d = [...marks.matchAll(/cx="([^"]*)" cy="([^"]*)"/g)].map((m) => `M${m[1]} ${m[2]}h0`).join("");
    const stroke = (color, width) => `<path d="${d}" style="stroke:var(--${color});stroke-width:${width};stroke-linecap:round"/>`;
    return kind === "open" ? stroke("line", 2 * r + 1.2) + stroke("paper", 2 * r - 1.2) : stroke(kind, 2 * r);
  });
  const whole = disks.replace(/ d="[^"]*"/g, (d) => d.replace(/-?\d+\.\d+/g, (x) => Math.round(x)));
  return whole.replace(/ class=""| text-anchor="start"/g, "").replaceAll('"', "'");
}
