"use strict";
// f by step. A logarithmic axis with a tick at powers of ten; the step that is shown is a line.

const SMALLEST = 1e-16; // below it, differences of f are rounding
const EDGE = { left: 40, right: 10, top: 8, bottom: 34 };

class LossPlot {
  constructor(canvas) {
    this.canvas = canvas;
  }

  draw(view) {
    const width = this.canvas.clientWidth, height = 216;
    const pen = crisp(this.canvas, width, height);
    Object.assign(this, { width, height, steps: view.steps });
    this.bounds(view);
    this.drawAxes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(EDGE.left, EDGE.top, width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom);
    pen.clip();
    for (const [name, run] of view.runs) {
      this.drawRun(pen, name, run.values, view.step, view.steps, 0.3);
      this.drawRun(pen, name, run.values, 0, view.step, 1);
    }
    pen.restore();
    pen.strokeStyle = color("ink");
    pen.lineWidth = 1;
    pen.beginPath();
    const now = Math.round(this.across(view.step)) + 0.5;
    pen.moveTo(now, EDGE.top);
    pen.lineTo(now, height - EDGE.bottom);
    pen.stroke();
  }

  // In powers of ten. A run that blows up is cut off at a thousand times the first value.
  bounds(view) {
    const first = view.runs.length ? view.runs[0][1].values[0] : 1;
    let low = Infinity, high = 0;
    for (const [, run] of view.runs) {
      for (const value of run.values) {
        if (value >= SMALLEST) low = Math.min(low, value);
        if (value <= 1e3 * first) high = Math.max(high, value);
      }
    }
    if (!(low <= high)) [low, high] = [0.1, 1];
    this.low = Math.log10(low), this.high = Math.log10(high);
    const room = Math.max(0.05 * (this.high - this.low), 0.05);
    this.low -= room, this.high += room;
  }

  across(step) {
    return EDGE.left + (step / this.steps) * (this.width - EDGE.left - EDGE.right);
  }

  down(value) {
    const share = (Math.log10(value) - this.low) / (this.high - this.low);
    return EDGE.top + (1 - share) * (this.height - EDGE.top - EDGE.bottom);
  }

  stepAt(clientX) {
    const inside = clientX - this.canvas.getBoundingClientRect().left - EDGE.left;
    const share = inside / (this.width - EDGE.left - EDGE.right);
    return Math.round(Math.max(0, Math.min(1, share)) * this.steps);
  }

  // Powers of ten, or 1, 2, 5 times those where there are few of them.
  levels() {
    const powers = [];
    const stride = Math.ceil((this.high - this.low) / 6);
    for (let k = Math.ceil(this.low); k <= this.high; k++) powers.push(k);
    const every = powers.filter((k) => k % stride === 0);
    if (every.length >= 2) return every.map((k) => [10 ** k, superscript(k)]);
    const found = [];
    for (let k = Math.floor(this.low); k <= this.high; k++) {
      for (const m of [1, 2, 5]) {
        const at = Math.log10(m) + k;
        if (at >= this.low && at <= this.high) found.push(m * 10 ** k);
      }
    }
    const values = found.length >= 2 ? found : ticks(10 ** this.low, 10 ** this.high, 4);
    return values.map((v) => [v, number(v, 3)]);
  }

  drawAxes(pen) {
    const foot = this.height - EDGE.bottom, end = this.width - EDGE.right;
    pen.font = `11px ${color("font")}`;
    pen.fillStyle = color("muted");
    pen.strokeStyle = color("rule");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.beginPath();
    for (const [value, label] of this.levels()) {
      const y = Math.round(this.down(value)) + 0.5;
      pen.moveTo(EDGE.left, y);
      pen.lineTo(end, y);
      pen.fillText(label, EDGE.left - 6, y);
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const step of ticks(0, this.steps, 5)) {
      if (!Number.isInteger(step)) continue;
      const x = Math.round(this.across(step)) + 0.5;
      pen.moveTo(x, foot);
      pen.lineTo(x, foot + 4);
      pen.fillText(short(step), Math.min(x, this.width - 14), foot + 6);
    }
    pen.fillText("step", (EDGE.left + end) / 2, foot + 20);
    pen.moveTo(EDGE.left + 0.5, EDGE.top);
    pen.lineTo(EDGE.left + 0.5, foot + 0.5);
    pen.lineTo(end, foot + 0.5);
    pen.stroke();
  }

  drawRun(pen, name, values, from, to, strength) {
    const look = OPTIMIZERS[name];
    pen.globalAlpha = strength;
    pen.strokeStyle = color(name);
    pen.lineWidth = Math.min(look.width, 2.6);
    pen.setLineDash(look.dash);
    pen.beginPath();
    let open = false;
    for (let k = from; k <= Math.min(to, values.length - 1); k++) {
      const shown = values[k] >= SMALLEST && Number.isFinite(values[k]);
      if (shown) {
        const y = Math.max(-1e4, this.down(values[k]));
        pen[open ? "lineTo" : "moveTo"](this.across(k), y);
      }
      open = shown;
    }
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }
}
