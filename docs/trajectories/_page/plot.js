"use strict";
// The contour plot: shaded bands between levels, lines on the levels, paths over them.

const MARGIN = { left: 34, right: 12, top: 8, bottom: 24 };
const GRID = 180;

class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.ground = document.createElement("canvas");
    this.known = "";
  }

  // One square of the plane, so that a unit is as long in x as in y.
  place(surface) {
    const width = this.canvas.clientWidth;
    const inner = width - MARGIN.left - MARGIN.right;
    const [left, bottom, side] = SETUP.surfaces[surface].span;
    Object.assign(this, { surface, width, inner, left, bottom, side });
    this.height = inner + MARGIN.top + MARGIN.bottom;
  }

  across(x) {
    return MARGIN.left + ((x - this.left) / this.side) * this.inner;
  }

  down(y) {
    return MARGIN.top + (1 - (y - this.bottom) / this.side) * this.inner;
  }

  // The point of the plane under a place on the screen.
  under(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const x = this.left + ((clientX - box.left - MARGIN.left) / this.inner) * this.side;
    const y = this.bottom + (1 - (clientY - box.top - MARGIN.top) / this.inner) * this.side;
    return [rounded(x), rounded(y)];
  }

  draw(view) {
    this.place(view.surface);
    const pen = crisp(this.canvas, this.width, this.height);
    this.paintGround();
    pen.drawImage(this.ground, MARGIN.left, MARGIN.top, this.inner, this.inner);
    this.drawAxes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN.left, MARGIN.top, this.inner, this.inner);
    pen.clip();
    this.drawMinima(pen);
    for (const [name, run] of view.runs) this.drawPath(pen, name, run, view.step);
    this.drawStart(pen, view.start);
    for (const [name, run] of view.runs) this.drawHead(pen, name, run, view.step);
    pen.restore();
  }

  // Kept until the surface, the size or the theme changes.
  paintGround() {
    const pixels = Math.round(this.inner * (window.devicePixelRatio || 1));
    const key = [this.surface, pixels, color("low"), color("high"), color("contour")].join();
    if (key === this.known) return;
    this.known = key;
    this.ground.width = this.ground.height = pixels;
    const pen = this.ground.getContext("2d");
    const { levels } = SETUP.surfaces[this.surface];
    const { value } = SURFACES[this.surface];
    const shades = bandColors(levels.length + 1);
    const image = pen.createImageData(pixels, pixels);
    for (let j = 0, at = 0; j < pixels; j++) {
      const y = this.bottom + (1 - (j + 0.5) / pixels) * this.side;
      for (let i = 0; i < pixels; i++, at += 4) {
        const z = value(this.left + ((i + 0.5) / pixels) * this.side, y);
        let band = 0;
        while (band < levels.length && z > levels[band]) band++;
        image.data.set(shades[band], at);
      }
    }
    pen.putImageData(image, 0, 0);
    pen.strokeStyle = color("contour");
    pen.lineWidth = 0.8 * (window.devicePixelRatio || 1);
    for (const level of levels) this.contour(pen, pixels, value, level);
  }

  // Marching squares: a line through each cell whose corners lie on both sides of the level.
  contour(pen, pixels, value, level) {
    const cell = this.side / GRID, size = pixels / GRID;
    const heights = Array.from({ length: GRID + 1 }, (_, j) =>
      Float64Array.from({ length: GRID + 1 }, (_, i) =>
        value(this.left + i * cell, this.bottom + j * cell) - level));
    pen.beginPath();
    for (let j = 0; j < GRID; j++) {
      for (let i = 0; i < GRID; i++) {
        const corners = [
          [i, j, heights[j][i]], [i + 1, j, heights[j][i + 1]],
          [i + 1, j + 1, heights[j + 1][i + 1]], [i, j + 1, heights[j + 1][i]],
        ];
        const cuts = [];
        for (let k = 0; k < 4; k++) {
          const [ax, ay, a] = corners[k], [bx, by, b] = corners[(k + 1) % 4];
          if (a > 0 === b > 0) continue;
          const share = a / (a - b);
          cuts.push([(ax + share * (bx - ax)) * size, pixels - (ay + share * (by - ay)) * size]);
        }
        for (let k = 0; k + 1 < cuts.length; k += 2) {
          pen.moveTo(...cuts[k]);
          pen.lineTo(...cuts[k + 1]);
        }
      }
    }
    pen.stroke();
  }

  drawAxes(pen) {
    pen.strokeStyle = color("edge");
    pen.fillStyle = color("muted");
    pen.lineWidth = 1;
    pen.font = `11px ${color("font")}`;
    pen.strokeRect(MARGIN.left - 0.5, MARGIN.top - 0.5, this.inner + 1, this.inner + 1);
    const foot = MARGIN.top + this.inner;
    pen.beginPath();
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const x of ticks(this.left, this.left + this.side, 8)) {
      pen.moveTo(this.across(x), foot);
      pen.lineTo(this.across(x), foot + 4);
      pen.fillText(short(x), this.across(x), foot + 7);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const y of ticks(this.bottom, this.bottom + this.side, 8)) {
      pen.moveTo(MARGIN.left, this.down(y));
      pen.lineTo(MARGIN.left - 4, this.down(y));
      pen.fillText(short(y), MARGIN.left - 7, this.down(y));
    }
    pen.stroke();
  }

  drawMinima(pen) {
    pen.strokeStyle = color("ink");
    pen.lineWidth = 1.6;
    pen.beginPath();
    for (const [x, y] of SETUP.surfaces[this.surface].minima) {
      const a = this.across(x), b = this.down(y);
      for (const side of [-5, 5]) {
        pen.moveTo(a - 5, b - side);
        pen.lineTo(a + 5, b + side);
      }
    }
    pen.stroke();
  }

  drawPath(pen, name, run, step) {
    const look = OPTIMIZERS[name];
    pen.lineJoin = pen.lineCap = "round";
    const done = Math.min(step, run.points.length - 1);
    this.trace(pen, run.points, done, run.points.length - 1);
    pen.globalAlpha = 0.3;
    this.stroke(pen, color(name), 1.2, []);
    pen.globalAlpha = 1;
    this.trace(pen, run.points, 0, done);
    if (name !== "absolute") {
      pen.globalAlpha = 0.75;
      this.stroke(pen, color("low"), look.width + 1.8, []);
      pen.globalAlpha = 1;
    }
    this.stroke(pen, color(name), look.width, look.dash);
  }

  trace(pen, points, from, to) {
    // Beyond some ten widths of the picture a canvas loses its way.
    const near = (v) => Math.max(-1e4, Math.min(1e4, v));
    pen.beginPath();
    for (let k = from; k <= to; k++) {
      const at = [near(this.across(points[k][0])), near(this.down(points[k][1]))];
      pen[k === from ? "moveTo" : "lineTo"](...at);
    }
  }

  stroke(pen, style, width, dash) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.lineCap = dash.length ? "butt" : "round";
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  }

  drawStart(pen, [x, y]) {
    pen.beginPath();
    pen.arc(this.across(x), this.down(y), 6, 0, 2 * Math.PI);
    pen.fillStyle = color("low");
    pen.fill();
    this.stroke(pen, color("ink"), 2, []);
  }

  drawHead(pen, name, run, step) {
    const [x, y] = run.points[Math.min(step, run.points.length - 1)];
    mark(pen, OPTIMIZERS[name].mark, this.across(x), this.down(y), 5.5);
    pen.fillStyle = color(name);
    pen.fill();
    this.stroke(pen, color("low"), 1.2, []);
  }
}

function bandColors(count) {
  const low = rgb("low"), high = rgb("high");
  return Array.from({ length: count }, (_, k) => {
    const share = count > 1 ? k / (count - 1) : 0;
    return [...low.map((c, i) => Math.round(c + share * (high[i] - c))), 255];
  });
}

// The levels under the plot, in the plot's own shades.
function showScale(box, surface) {
  const { levels } = SETUP.surfaces[surface];
  const shades = bandColors(levels.length + 1);
  box.replaceChildren(...shades.map((shade, k) => {
    const part = document.createElement("span");
    part.style.background = `rgb(${shade.slice(0, 3).join()})`;
    if (k > 0) part.dataset.level = short(levels[k - 1]);
    return part;
  }));
}
