// The chooser has no picture: its still is the table, with the facts of the first card.
const LINE = 21;
spec.stillState = { guess: "5", ...{ z: "discrete", f: "black", density: "known", support: "few", bias: "none" } };
spec.layout = (size, view) => ({ height: (view.rows.length + 4) * LINE });
spec.draw = (view) => {
  const said = ASKED.map((key) => `${{ density: "log q", support: "values of z:", bias: "bias" }[key] || key} ${view.state.facts[key][1][view.answers[key]]}`);
  return text(0, LINE - 6, said.slice(0, 3).join("; ") + ";", "start", "bold") + text(0, 2 * LINE - 6, said.slice(3).join("; "), "start", "bold") +
    text(230, 3 * LINE, "bias", "start", "bold") + text(350, 3 * LINE, "evaluations of f, K samples", "start", "bold") +
    view.rows.map((row, i) => {
      const y = (i + 4) * LINE;
      return row.reasons.length
        ? text(0, y, `<tspan text-decoration="line-through">${row.name}</tspan>`, "start", "mute") + text(230, y, row.reasons.map((r) => r.split(" (")[0]).join("; "), "start", "mute")
        : text(0, y, row.name) + text(230, y, row.bias) + text(350, y, row.evaluations);
    }).join("");
};
