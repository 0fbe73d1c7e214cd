// The chooser has no picture: its still is the table, with the facts of the first card.
const LINE = 21;
spec.stillState = { guess: "0", ...{ z: "discrete", f: "black", density: "known", support: "few", bias: "none" } };
spec.layout = (size, view) => ({ height: (view.rows.length + 3) * LINE });
spec.draw = (view) => {
  const said = ASKED.map((key) => `${key === "density" ? "log q" : key} ${view.state.facts[key][1][view.answers[key]]}`);
  return text(0, LINE - 6, said.join("; "), "start", "bold") +
    text(200, 2 * LINE, "bias") + text(330, 2 * LINE, "evaluations of f, for K samples of D variables") +
    view.rows.map((row, i) => {
      const y = (i + 3) * LINE;
      return row.reasons.length
        ? text(0, y, `<tspan text-decoration="line-through">${row.name}</tspan>`, "start", "mute") + text(200, y, row.reasons.map((r) => r.split(" (")[0]).join("; "), "start", "mute")
        : text(0, y, row.name) + text(200, y, row.bias) + text(330, y, row.evaluations.split("; ")[0]);
    }).join("");
};
