"use strict";
// The optimizers, in float64. A test runs this block and adafactor_numpy over drawn settings and
// compares every quantity of every step; change nothing here without it.

// Rows and columns of the array that the point (x, y) is given in. A vector is not factored.
const LAYOUTS = {
  vector: { rows: 1, cols: 2, factored: false },
  "1x2": { rows: 1, cols: 2, factored: true },
  "2x1": { rows: 2, cols: 1, factored: true },
  diagonal: { rows: 2, cols: 2, factored: true },
};

// settings: surface, optimizer ("sgd", "momentum", "adam", "relative", "absolute"), start, steps,
// lr, mu, adam_beta1, adam_beta2, and Adafactor's cap, warmup_init, scale_parameter, eps2,
// clip_threshold (null: off), beta1, decay_rate, layout. The result: points and values, the start
// first, and every quantity of every step. It ends early where a number is not finite.
function simulate(settings) {
  const { value, gradient } = SURFACES[settings.surface];
  const diagonal = isAdafactor(settings.optimizer) && settings.layout === "diagonal";
  const [x0, y0] = settings.start;
  let x = diagonal ? [x0, 0, 0, y0] : [x0, y0];
  const point = () => (diagonal ? [x[0], x[3]] : x.slice());
  const take = optimizerOf(settings);
  const points = [point()], values = [value(x0, y0)], steps = [];
  for (let t = 1; t <= settings.steps; t++) {
    const [gx, gy] = gradient(...point());
    const g = diagonal ? [gx, 0, 0, gy] : [gx, gy];
    const step = take(t, g, x);
    const after = x.map((at, i) => at + step.d[i]);
    if (!after.every(Number.isFinite)) break;
    steps.push({ t, before: x, g, ...step, x: after });
    x = after;
    points.push(point());
    values.push(value(...point()));
  }
  return { points, values, steps };
}

function isAdafactor(name) {
  return name === "relative" || name === "absolute";
}

function optimizerOf(s) {
  if (s.optimizer === "adam") return adam(s);
  if (isAdafactor(s.optimizer)) return adafactor(s);
  return descent(s.lr, s.optimizer === "momentum" ? s.mu : 0);
}

function descent(lr, mu) {
  let m = [0, 0];
  return (t, g) => {
    m = m.map((old, i) => mu * old + g[i]);
    return { m: m.slice(), d: m.map((v) => -lr * v) };
  };
}

// As af.variants.algorithm1: bias correction is a decay, epsilon is added to the square.
function adam({ lr, adam_beta1: beta1, adam_beta2: beta2 }) {
  let m = [0, 0], v = [0, 0];
  return (t, g) => {
    const keep = (beta1 * (1 - beta1 ** (t - 1))) / (1 - beta1 ** t);
    const b = t === 1 || beta2 === 0 ? 1 : (1 - beta2) / -Math.expm1(t * Math.log(beta2));
    m = m.map((old, i) => old * keep + g[i] * (1 - keep));
    v = v.map((old, i) => moved(old, g[i] * g[i] + 1e-30, b));
    const u = m.map((mean, i) => mean * thin(v[i]));
    return { b, keep, m: m.slice(), v: v.slice(), u, d: u.map((one) => -lr * one) };
  };
}

// 1/√v, but not 0 where v has overflowed: a run that is lost shall be seen to be lost.
function thin(v) {
  return Math.sqrt(v) / v;
}

function moved(old, now, b) {
  return old - old * b + now * b;
}

function adafactor(s) {
  const { rows, cols, factored } = LAYOUTS[s.layout];
  const size = rows * cols;
  const eps1 = 1e-30;
  let row = Array(rows).fill(0), col = Array(cols).fill(0), full = Array(size).fill(0);
  let m = Array(size).fill(0);
  return (t, g, x) => {
    const b = t ** -s.decay_rate;
    let v, u;
    if (factored) {
      row = row.map((old, i) => moved(old, mean(g, (k) => Math.floor(k / cols) === i) + eps1, b));
      col = col.map((old, j) => moved(old, mean(g, (k) => k % cols === j) + eps1, b));
      const middle = row.reduce((sum, r) => sum + r, 0) / rows;
      v = g.map((_, k) => (row[Math.floor(k / cols)] / middle) * col[k % cols]);
      const p = row.map((r) => Math.sqrt(middle) / Math.sqrt(r));
      u = g.map((one, k) => (one / Math.sqrt(col[k % cols])) * p[Math.floor(k / cols)]);
    } else {
      full = full.map((old, k) => moved(old, g[k] * g[k] + eps1, b));
      v = full.slice();
      u = g.map((one, k) => one * thin(v[k]));
    }
    const uRms = rms(u), xRms = rms(x);
    const clip = s.clip_threshold === null ? 1 : 1 / Math.max(1, uRms / s.clip_threshold);
    const rho = s.optimizer === "relative" ? relativeStep(s, t) : s.lr;
    const alpha = rho * (s.scale_parameter ? Math.max(s.eps2, xRms) : 1);
    m = m.map((old, k) => old * s.beta1 + u[k] * alpha * clip * (1 - s.beta1));
    return {
      b, row: factored ? row.slice() : null, col: factored ? col.slice() : null,
      v, u, uRms, clip, rho, xRms, alpha, m: m.slice(), d: m.map((one) => -one),
    };
  };
}

function relativeStep(s, t) {
  const rho = Math.min(s.cap, t ** -0.5);
  return s.warmup_init ? Math.min(rho, 1e-6 * t) : rho;
}

// Of the squares of those entries that `which` picks.
function mean(g, which) {
  const picked = g.filter((_, k) => which(k));
  return picked.reduce((sum, one) => sum + one * one, 0) / picked.length;
}

function rms(values) {
  return Math.sqrt(values.reduce((sum, one) => sum + one * one, 0) / values.length);
}
