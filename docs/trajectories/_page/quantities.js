"use strict";
// Which quantities of a step are shown, with the formula that gives each.

const VECTOR = (values) => `(${values.map((v) => number(v)).join(", ")})`;
const MATRIX = (cols) => (values) => {
  const lines = [];
  for (let k = 0; k < values.length; k += cols) {
    lines.push(values.slice(k, k + cols).map((v) => number(v)).join("  "));
  }
  return lines.length === 1 ? `[${lines[0]}]` : lines.map((line) => `[${line}]`).join("\n");
};

// [symbol, formula or name, text of the value]
function quantities(settings, step) {
  const adafactor = isAdafactor(settings.optimizer);
  const layout = LAYOUTS[settings.layout];
  const matrix = adafactor && settings.layout !== "vector";
  const all = matrix ? MATRIX(layout.cols) : VECTOR;
  const rows = [
    ["X", "before the step", all(step.before)],
    ["G", "gradient", all(step.g)],
  ];
  if (settings.optimizer === "momentum") {
    rows.push(["m", `${number(settings.mu)} m + G`, all(step.m)]);
  }
  if (settings.optimizer === "adam") rows.push(...ofAdam(settings, step, all));
  if (adafactor) rows.push(...ofAdafactor(settings, step, all, layout));
  const rate = { sgd: "−lr G", momentum: "−lr m", adam: "−lr U" }[settings.optimizer];
  const last = settings.beta1 > 0 ? "−m" : "−α · clip factor · U";
  rows.push(["D", rate || last, all(step.d)], ["X", "after: X + D", all(step.x)]);
  return rows;
}

function ofAdam(settings, step, all) {
  return [
    ["m", "mean of G, bias-corrected", all(step.m)],
    ["V", "mean of G², bias-corrected", all(step.v)],
    ["U", "m / √V", all(step.u)],
    ["lr", "the rate", number(settings.lr)],
  ];
}

function ofAdafactor(settings, step, all, layout) {
  const rows = [["1 − β₂", `t^−${number(settings.decay_rate)}: weight of the new`, number(step.b)]];
  if (layout.factored) {
    rows.push(
      ["R", "row means of G², averaged", MATRIX(1)(step.row)],
      ["C", "column means of G², averaged", MATRIX(layout.cols)(step.col)],
      ["V", "R C / mean(R)", all(step.v)],
    );
  } else {
    rows.push(["V", "G², averaged", all(step.v)]);
  }
  rows.push(["U", "G / √V", all(step.u)], ["RMS(U)", "", number(step.uRms)]);
  rows.push(
    settings.clip_threshold === null
      ? ["clip factor", "clipping is off", "1"]
      : ["clip factor", "1 / max(1, RMS(U) / d)", number(step.clip)],
  );
  const relative = settings.optimizer === "relative";
  rows.push(relative ? ["ρ", `min(${number(settings.cap)}, 1/√t)${settings.warmup_init ? ", warm-up" : ""}`,
    number(step.rho)] : ["lr", "the rate", number(step.rho)]);
  const scale = `max(ε₂, RMS(X))`;
  rows.push(["RMS(X)", settings.scale_parameter ? "" : "not used: no scaling", number(step.xRms)]);
  const by = relative ? "ρ" : "lr";
  rows.push(["α", settings.scale_parameter ? `${by} ${scale}` : by, number(step.alpha)]);
  if (settings.beta1 > 0) {
    const beta1 = number(settings.beta1);
    rows.push(["m", `${beta1} m + (1 − ${beta1}) α · clip factor · U`, all(step.m)]);
  }
  return rows;
}

function showQuantities(body, rows) {
  body.replaceChildren(...rows.map((cells) => {
    const line = document.createElement("tr");
    cells.forEach((text, k) => {
      const cell = document.createElement(k === 0 ? "th" : "td");
      if (k === 0) cell.scope = "row";
      cell.textContent = text;
      line.append(cell);
    });
    return line;
  }));
}
