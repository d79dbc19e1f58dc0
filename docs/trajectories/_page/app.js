"use strict";
// What the person chose, and everything that follows from a choice.

const $ = (id) => document.getElementById(id);
const plot = new Plot($("plot")), loss = new LossPlot($("loss"));
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const state = {
  surface: "bowl", start: [4, 4], step: 0, playing: false, inspected: "relative",
  shown: Object.fromEntries(Object.keys(OPTIMIZERS).map((name) => [name, true])),
  lr: {}, options: {}, runs: {},
};

// The settings of one run, as `simulate` takes them.
function settingsOf(name) {
  const { relative_scale, absolute_scale, ...options } = state.options;
  const scale_parameter = name === "relative" ? relative_scale : absolute_scale;
  const { surface, start, lr } = state;
  return { optimizer: name, surface, start, lr: lr[name] ?? null, scale_parameter, ...options };
}

function recompute() {
  for (const name of Object.keys(OPTIMIZERS)) state.runs[name] = simulate(settingsOf(name));
  $("scrub").max = state.options.steps;
  go(Math.min(state.step, state.options.steps));
}

function go(step) {
  state.step = Math.max(0, Math.min(state.options.steps, step));
  $("scrub").value = state.step;
  $("at").textContent = `${state.step} / ${state.options.steps}`;
  $("scrub").setAttribute("aria-valuetext", `step ${state.step} of ${state.options.steps}`);
  redraw();
}

function redraw() {
  const runs = Object.keys(OPTIMIZERS).filter((n) => state.shown[n]).map((n) => [n, state.runs[n]]);
  const { surface, start, step } = state;
  const view = { surface, start, step, runs, steps: state.options.steps };
  plot.draw(view);
  loss.draw(view);
  for (const name of Object.keys(OPTIMIZERS)) showNow(name);
  inspect();
}

function showNow(name) {
  const { values } = state.runs[name];
  const lost = state.step > values.length - 1;
  const now = values[Math.min(state.step, values.length - 1)];
  $(`now-${name}`).textContent = lost ? `lost at ${values.length}` : number(now, 3);
}

function inspect() {
  const run = state.runs[state.inspected];
  const t = Math.max(1, Math.min(state.step, run.steps.length));
  $("inspect-title").textContent = `Step ${t}`;
  const step = run.steps[t - 1];
  showQuantities($("quantities").tBodies[0], step ? quantities(settingsOf(state.inspected), step) : []);
}

function tell(text) {
  $("status").textContent = text;
}

// --- start and surface -------------------------------------------------------------------------

// A start that is chosen has as many digits as its fields show.
function rounded(v) {
  return Number(v.toPrecision(6));
}

function setStart(x, y, told = true) {
  const [left, bottom, side] = SETUP.surfaces[state.surface].span;
  const held = (v, low) => Math.max(low, Math.min(low + side, v));
  state.start = [held(x, left), held(y, bottom)];
  for (const [k, axis] of ["x", "y"].entries()) {
    setField($(`start-${axis}`), rounded(state.start[k]));
  }
  recompute();
  if (told) tell(`Start at ${state.start.map((v) => number(v)).join(", ")}`);
}

function setSurface(surface) {
  const about = SETUP.surfaces[surface];
  state.surface = surface;
  state.start = about.start.slice();
  state.lr = { ...about.lr };
  for (const name of Object.keys(about.lr)) setField($(`lr-${name}`), about.lr[name]);
  $("surface-name").textContent = `f(x, y) = ${about.formula}`;
  $("note").textContent = about.note;
  const [left, bottom, side] = about.span;
  for (const [axis, low] of [["x", left], ["y", bottom]]) {
    Object.assign($(`start-${axis}`), { min: low, max: low + side });
  }
  $("plot").setAttribute("aria-label", `Contour plot of ${about.title}, f(x, y) = ${about.formula}`);
  showScale($("scale"), surface);
  setStart(...about.start, false);
}

// --- fields ------------------------------------------------------------------------------------

function setField(field, value) {
  field.value = value;
  field.removeAttribute("aria-invalid");
}

// Its value, or undefined where it is not one; the field then says so and nothing else happens.
function read(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.tagName === "SELECT") return field.value;
  if (field.placeholder === "off" && field.value === "" && !field.validity.badInput) {
    field.removeAttribute("aria-invalid");
    return null;
  }
  const value = field.valueAsNumber;
  const good = field.validity.valid && Number.isFinite(value);
  if (good) field.removeAttribute("aria-invalid");
  else field.setAttribute("aria-invalid", "true");
  return good ? value : undefined;
}

function readOptions() {
  for (const field of document.querySelectorAll("[data-option]")) {
    const value = read(field);
    if (value !== undefined) state.options[field.dataset.option] = value;
  }
}

// --- playing -----------------------------------------------------------------------------------

let ticking = 0;

function play(on) {
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  cancelAnimationFrame(ticking);
  if (!on) return;
  if (state.step >= state.options.steps) go(0);
  let last = performance.now(), owed = 0;
  const frame = (now) => {
    // With reduced motion, ten still pictures instead of a film.
    const still = calm.matches;
    const rate = still ? state.options.steps / 10 / 0.8 : Number($("speed").value);
    owed += ((now - last) / 1000) * rate;
    last = now;
    const whole = still ? Math.ceil(state.options.steps / 10) : 1;
    if (owed >= whole) {
      const by = Math.floor(owed / whole) * whole;
      owed -= by;
      go(state.step + by);
    }
    if (state.step >= state.options.steps) {
      play(false);
      tell(`Played to step ${state.step}`);
    } else {
      ticking = requestAnimationFrame(frame);
    }
  };
  ticking = requestAnimationFrame(frame);
}

function stepBy(by) {
  play(false);
  go(state.step + by);
}

// --- themes ------------------------------------------------------------------------------------

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : darkness.matches;
}

function showTheme() {
  $("theme").textContent = isDark() ? "Light theme" : "Dark theme";
  for (const canvas of document.querySelectorAll(".swatch")) canvas.redraw();
  showScale($("scale"), state.surface);
  redraw();
}

// --- the page ----------------------------------------------------------------------------------

function optimizerRow(name) {
  const line = document.createElement("tr");
  const label = document.createElement("label");
  label.className = "check";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.id = `show-${name}`;
  label.append(box, swatch(name), OPTIMIZERS[name].short ?? OPTIMIZERS[name].label);
  const rate = document.createElement("td");
  if (name === "relative") {
    rate.innerHTML = '<span class="hint">none: min(cap, 1/√t)</span>';
  } else {
    const field = Object.assign(document.createElement("input"), { type: "number", min: 0, step: "any" });
    field.id = `lr-${name}`;
    field.setAttribute("aria-label", `Rate of ${OPTIMIZERS[name].label}`);
    field.addEventListener("input", () => {
      const value = read(field);
      if (value !== undefined) {
        state.lr[name] = value;
        recompute();
      }
    });
    rate.append(field);
  }
  box.addEventListener("change", () => {
    state.shown[name] = box.checked;
    redraw();
  });
  const head = document.createElement("th");
  head.scope = "row";
  head.append(label);
  const now = document.createElement("td");
  now.id = `now-${name}`;
  line.append(head, rate, now);
  return line;
}

function arrows(event) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (event.key === " ") play(!state.playing);
  else if (by) {
    const unit = (SETUP.surfaces[state.surface].span[2] / 200) * (event.shiftKey ? 10 : 1);
    const moved = state.start.map((v, k) => rounded(v + by[k] * unit));
    setStart(...moved);
  } else return;
  event.preventDefault();
}

function begin() {
  for (const [key, about] of Object.entries(SETUP.surfaces)) $("surface").add(new Option(about.title, key));
  for (const [name, look] of Object.entries(OPTIMIZERS)) {
    $("optimizers").tBodies[0].append(optimizerRow(name));
    $("inspect").add(new Option(look.label, name, name === state.inspected, name === state.inspected));
  }
  const defaults = new Map();
  for (const field of document.querySelectorAll("[data-option]")) {
    defaults.set(field, read(field));
    field.addEventListener("input", () => {
      readOptions();
      recompute();
    });
  }
  readOptions();
  $("surface").addEventListener("change", () => setSurface($("surface").value));
  for (const axis of ["x", "y"]) {
    $(`start-${axis}`).addEventListener("change", () => {
      const [x, y] = [read($("start-x")), read($("start-y"))];
      if (x !== undefined && y !== undefined) setStart(x, y);
    });
  }
  const canvas = $("plot");
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) setStart(...plot.under(event.clientX, event.clientY));
  });
  // Not on pointerdown: on a phone that is how scrolling begins.
  canvas.addEventListener("click", (event) => setStart(...plot.under(event.clientX, event.clientY)));
  canvas.addEventListener("keydown", arrows);
  $("loss").addEventListener("pointerdown", (event) => {
    play(false);
    go(loss.stepAt(event.clientX));
  });
  $("play").addEventListener("click", () => play(!state.playing));
  $("back").addEventListener("click", () => stepBy(-1));
  $("forth").addEventListener("click", () => stepBy(1));
  $("reset").addEventListener("click", () => stepBy(-state.step));
  $("scrub").addEventListener("input", () => {
    play(false);
    go(Number($("scrub").value));
  });
  $("inspect").addEventListener("change", () => {
    state.inspected = $("inspect").value;
    inspect();
  });
  $("defaults").addEventListener("click", () => {
    for (const [field, value] of defaults) {
      if (field.type === "checkbox") field.checked = value;
      else setField(field, value);
    }
    readOptions();
    setSurface(state.surface);
  });
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  darkness.addEventListener("change", showTheme);
  const speedTold = () => {
    $("speed").disabled = calm.matches;
    $("speed").title = calm.matches ? "Reduced motion: ten still pictures" : "";
  };
  calm.addEventListener("change", speedTold);
  speedTold();
  state.step = state.options.steps;
  setSurface("bowl");
  showTheme();
  new ResizeObserver(redraw).observe(document.querySelector("main"));
}

begin();
