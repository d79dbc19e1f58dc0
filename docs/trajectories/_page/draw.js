"use strict";
// What both pictures share: optimizers and their marks, crisp canvases, ticks, numbers as text.

const SETUP = JSON.parse(document.getElementById("setup").textContent);
const OPTIMIZERS = {
  sgd: { label: "SGD", dash: [1.5, 3], width: 2, mark: "square" },
  momentum: { label: "SGD with momentum", short: "Momentum", dash: [8, 4], width: 2, mark: "up" },
  adam: { label: "Adam", dash: [8, 3, 1.5, 3], width: 2, mark: "diamond" },
  relative: { label: "Adafactor, relative step", short: "Adafactor, relative", dash: [], width: 3.6, mark: "circle" },
  absolute: { label: "Adafactor, absolute rate", short: "Adafactor, absolute", dash: [], width: 1.8, mark: "down" },
};

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function rgb(name) {
  const hex = color(name).slice(1);
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// A context whose unit is a CSS pixel, on a canvas with as many pixels as the screen has.
function crisp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// At most about `count` round numbers within [low, high].
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

function short(value) {
  return String(Number(value.toPrecision(6))).replace("-", "−");
}

// Significant digits, powers of ten beyond what is easy to read.
function number(value, digits = 4) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const plain = size >= 1e-4 && size < 1e6;
  const text = plain ? trimmed(value.toPrecision(digits)) : value.toExponential(Math.min(digits, 3) - 1);
  return (plain ? text : text.replace("e+", "e")).replaceAll("-", "−");
}

function trimmed(text) {
  return String(text.includes("e") ? Number(text) : text.includes(".") ? text.replace(/\.?0+$/, "") : text);
}

function superscript(power) {
  return "10" + String(power).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
}

// The shape that tells an optimizer apart without its colour.
function mark(pen, shape, x, y, r) {
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, r, 0, 2 * Math.PI);
  if (shape === "square") pen.rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7);
  const corners = {
    up: [[0, -1.15], [1.05, 0.8], [-1.05, 0.8]],
    down: [[0, 1.15], [1.05, -0.8], [-1.05, -0.8]],
    diamond: [[0, -1.25], [1.05, 0], [0, 1.25], [-1.05, 0]],
  }[shape];
  if (corners) {
    corners.forEach(([a, b], k) => pen[k ? "lineTo" : "moveTo"](x + a * r, y + b * r));
    pen.closePath();
  }
}

// A small picture of a line and its mark, for the table.
function swatch(name) {
  const canvas = document.createElement("canvas");
  canvas.className = "swatch";
  canvas.setAttribute("aria-hidden", "true");
  const look = OPTIMIZERS[name];
  canvas.redraw = () => {
    const pen = crisp(canvas, 34, 14);
    pen.strokeStyle = pen.fillStyle = color(name);
    pen.lineWidth = Math.min(look.width, 3);
    pen.setLineDash(look.dash);
    pen.beginPath();
    pen.moveTo(0, 7);
    pen.lineTo(34, 7);
    pen.stroke();
    mark(pen, look.mark, 17, 7, 4.5);
    pen.fill();
  };
  return canvas;
}
