"use strict";
// Puts the controls together and listens to them.

function optimizerRow(name) {
  const line = document.createElement("tr");
  const label = document.createElement("label");
  label.className = "check";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.id = `show-${name}`;
  label.append(box, swatch(name), OPTIMIZERS[name].short ?? OPTIMIZERS[name].label);
  const rate = document.createElement("td");
  if (name === "relative") {
    rate.innerHTML = '<span class="hint">none<span>: min(cap, 1/√t)</span></span>';
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
  $("surface").value = state.surface;
  setSurface(state.surface);
  showTheme();
  new ResizeObserver(redraw).observe(document.querySelector("main"));
}

begin();
