"use strict";
// The surfaces of _surfaces.py: value and gradient. A test holds the two against each other.

const TURN = 2 * Math.PI;

const SURFACES = {
  bowl: {
    value: (x, y) => x * x + y * y,
    gradient: (x, y) => [2 * x, 2 * y],
  },
  valley: {
    value: (x, y) => 0.5 * (x * x + 50 * y * y),
    gradient: (x, y) => [x, 50 * y],
  },
  turned: {
    value: (x, y) => 0.25 * ((x + y) * (x + y) + 50 * (x - y) * (x - y)),
    gradient: (x, y) => [0.5 * (x + y) + 25 * (x - y), 0.5 * (x + y) - 25 * (x - y)],
  },
  rosenbrock: {
    value: (x, y) => (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x),
    gradient: (x, y) => {
      const off = y - x * x;
      return [-2 * (1 - x) - 400 * x * off, 200 * off];
    },
  },
  beale: {
    value: (x, y) => {
      const [a, b, c] = bealeTerms(x, y);
      return a * a + b * b + c * c;
    },
    gradient: (x, y) => {
      const [a, b, c] = bealeTerms(x, y);
      return [
        2 * (a * (y - 1) + b * (y * y - 1) + c * (y * y * y - 1)),
        2 * x * (a + 2 * b * y + 3 * c * y * y),
      ];
    },
  },
  himmelblau: {
    value: (x, y) => {
      const a = x * x + y - 11, b = x + y * y - 7;
      return a * a + b * b;
    },
    gradient: (x, y) => {
      const a = x * x + y - 11, b = x + y * y - 7;
      return [4 * x * a + 2 * b, 2 * a + 4 * y * b];
    },
  },
  saddle: {
    value: (x, y) => 0.5 * x * x + 0.25 * (y * y - 1) * (y * y - 1),
    gradient: (x, y) => [x, y * (y * y - 1)],
  },
  rastrigin: {
    value: (x, y) =>
      20 + x * x - 10 * Math.cos(TURN * x) + y * y - 10 * Math.cos(TURN * y),
    gradient: (x, y) => [
      2 * x + 10 * TURN * Math.sin(TURN * x),
      2 * y + 10 * TURN * Math.sin(TURN * y),
    ],
  },
};

function bealeTerms(x, y) {
  return [1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y];
}
