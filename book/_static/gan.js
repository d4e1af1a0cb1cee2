/* A GAN that trains in the page: two perceptrons, their losses, Adam and Algorithm 1, and a
   picture of them. Plain script, no kernel, nothing loaded. The first half is the mathematics
   (window.Gan, compared with torch by tests/test_gan_in_page.py), the second half the page.
   Arrays are row-major Float64Array: x[i * d + j] is coordinate j of sample i. */
"use strict";

(function () {
  const sigmoid = (l) => (l >= 0 ? 1 / (1 + Math.exp(-l)) : Math.exp(l) / (1 + Math.exp(l)));
  const softplus = (l) => Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l)));

  // Numbers in [0, 1) from a seed (mulberry32), and standard normal ones from them.
  function randomNumbers(seed) {
    let a = seed >>> 0;
    const uniform = () => {
      a = (a + 0x6d2b79f5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), a | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const normal = () =>
      Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return { uniform, normal };
  }

  // Linear layers with x * sigma(x) (SiLU) between them, as ganlib.models.mlp.
  class Mlp {
    constructor(sizes, random) {
      this.layers = [];
      for (let k = 0; k + 1 < sizes.length; k++) {
        const [n, m] = [sizes[k], sizes[k + 1]];
        const bound = 1 / Math.sqrt(n); // torch's default
        const draw = () => (2 * random.uniform() - 1) * bound;
        const layer = { n, m, w: new Float64Array(m * n), b: new Float64Array(m) };
        layer.w = layer.w.map(draw);
        layer.b = layer.b.map(draw);
        layer.gw = new Float64Array(m * n);
        layer.gb = new Float64Array(m);
        this.layers.push(layer);
      }
    }

    forward(x, count) {
      this.count = count;
      this.layers.forEach((layer, k) => {
        const { n, m, w, b } = layer;
        const out = new Float64Array(count * m);
        for (let i = 0; i < count; i++)
          for (let o = 0; o < m; o++) {
            let sum = b[o];
            for (let j = 0; j < n; j++) sum += w[o * n + j] * x[i * n + j];
            out[i * m + o] = sum;
          }
        Object.assign(layer, { input: x, output: out });
        if (k + 1 === this.layers.length) return (x = out);
        layer.gate = new Float64Array(out.length);
        x = new Float64Array(out.length);
        for (let i = 0; i < out.length; i++) {
          layer.gate[i] = sigmoid(out[i]);
          x[i] = out[i] * layer.gate[i];
        }
      });
      return x;
    }

    // From dL/d(output) to dL/d(input); adds dL/d(weights) where they are wanted.
    backward(gradient, wanted) {
      for (let k = this.layers.length - 1; k >= 0; k--) {
        const { n, m, w, gw, gb, input, output, gate } = this.layers[k];
        if (k + 1 < this.layers.length)
          gradient = gradient.map((g, i) => g * gate[i] * (1 + output[i] * (1 - gate[i])));
        const back = new Float64Array(this.count * n);
        for (let i = 0; i < this.count; i++)
          for (let o = 0; o < m; o++) {
            const g = gradient[i * m + o];
            for (let j = 0; j < n; j++) back[i * n + j] += g * w[o * n + j];
            if (!wanted) continue;
            gb[o] += g;
            for (let j = 0; j < n; j++) gw[o * n + j] += g * input[i * n + j];
          }
        gradient = back;
      }
      return gradient;
    }

    zeroGrad() {
      for (const { gw, gb } of this.layers) gw.fill(0), gb.fill(0);
    }

    parameters() {
      return this.layers.flatMap(({ w, b, gw, gb }) => [[w, gw], [b, gb]]);
    }
  }

  // Kingma and Ba (2015), Algorithm 1, as torch.optim.Adam.
  class Adam {
    constructor(network, lr, beta1 = 0.5, beta2 = 0.999, eps = 1e-8) {
      Object.assign(this, { network, lr, beta1, beta2, eps, t: 0 });
      this.moments = network.parameters().map(([w]) => [
        new Float64Array(w.length),
        new Float64Array(w.length),
      ]);
    }

    step() {
      this.t += 1;
      const scale1 = 1 - this.beta1 ** this.t;
      const scale2 = Math.sqrt(1 - this.beta2 ** this.t);
      this.network.parameters().forEach(([w, g], p) => {
        const [m, v] = this.moments[p];
        for (let i = 0; i < w.length; i++) {
          m[i] += (1 - this.beta1) * (g[i] - m[i]);
          v[i] = this.beta2 * v[i] + (1 - this.beta2) * g[i] * g[i];
          w[i] -= ((this.lr / scale1) * m[i]) / (Math.sqrt(v[i]) / scale2 + this.eps);
        }
      });
    }
  }

  const mean = (values, f) => values.reduce((sum, l) => sum + f(l), 0) / values.length;

  function joined(a, b) {
    const both = new Float64Array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
  }

  // L_D = mean softplus(-real) + mean softplus(fake), and its derivatives at the logits.
  function discriminatorLoss(real, fake) {
    return {
      value: mean(real, (l) => softplus(-l)) + mean(fake, softplus),
      atReal: real.map((l) => -sigmoid(-l) / real.length),
      atFake: fake.map((l) => sigmoid(l) / fake.length),
    };
  }

  // L_G: mean softplus(-l) (non-saturating) or -mean softplus(l) (minimax).
  function generatorLoss(fake, minimax) {
    return {
      value: minimax ? -mean(fake, softplus) : mean(fake, (l) => softplus(-l)),
      atFake: fake.map((l) => -(minimax ? sigmoid(l) : sigmoid(-l)) / fake.length),
    };
  }

  // One round of Algorithm 1 with k = 1, as ganlib.trainer.train_step.
  function trainStep({ generator, discriminator, optG, optD, minimax }, xReal, zForD, zForG) {
    const count = xReal.length / 2;
    discriminator.zeroGrad();
    const forged = generator.forward(zForD, count);
    const logits = discriminator.forward(joined(xReal, forged), 2 * count);
    const lossD = discriminatorLoss(logits.subarray(0, count), logits.subarray(count));
    discriminator.backward(joined(lossD.atReal, lossD.atFake), true);
    optD.step();
    generator.zeroGrad();
    const fake = discriminator.forward(generator.forward(zForG, count), count);
    const lossG = generatorLoss(fake, minimax);
    generator.backward(discriminator.backward(lossG.atFake, false), true);
    optG.step();
    return { lossD: lossD.value, lossG: lossG.value };
  }

  window.Gan = { Mlp, Adam, discriminatorLoss, generatorLoss, trainStep, randomNumbers, sigmoid };

  // ------------------------------------------------------------------ what the page shows

  const BATCH = 128, HIDDEN = 32, SHOWN = 400, SIDE = 33, RANGE = 1.5, BINS = 12;
  const COLORS = { data: "#000000", generator: "#009E73", discriminator: "#0072B2" };

  const ring = (n, radius, std) => (r) => {
    const angle = (2 * Math.PI * Math.floor(n * r.uniform())) / n;
    return [radius * Math.cos(angle) + std * r.normal(), radius * Math.sin(angle) + std * r.normal()];
  };
  const TARGETS = {
    ring: ring(8, 1, 0.07),
    three: ring(3, 0.8, 0.13),
    circle: (r) => {
      const angle = 2 * Math.PI * r.uniform();
      return [Math.cos(angle) + 0.05 * r.normal(), Math.sin(angle) + 0.05 * r.normal()];
    },
    moons: (r) => {
      const angle = Math.PI * r.uniform(), upper = r.uniform() < 0.5 ? 1 : -1;
      const x = 0.7 * Math.cos(angle) - 0.35 * upper, y = 0.8 * Math.sin(angle) - 0.25;
      return [x + 0.05 * r.normal(), upper * y + 0.05 * r.normal()];
    },
    line: (r) => {
      const t = 2 * r.uniform() - 1;
      return [t + 0.04 * r.normal(), 0.8 * t + 0.04 * r.normal()];
    },
  };

  function setUp(root) {
    const find = (name) => root.querySelector(`[data-gan="${name}"]`);
    const plane = find("plane"), curves = find("curves"), words = find("words");
    const still = window.matchMedia("(prefers-reduced-motion: reduce)");
    const random = randomNumbers(1);
    let state, history, data, step, running = false, drawn = [], pen = [0, 0], last = 0, due = 0, said = 0;

    const points = (count) => {
      const out = new Float64Array(2 * count);
      const target = TARGETS[find("data").value];
      for (let i = 0; i < count; i++) {
        const spot = drawn[Math.floor(random.uniform() * drawn.length)];
        out.set(
          target ? target(random)
            : [spot[0] + 0.06 * random.normal(), spot[1] + 0.06 * random.normal()], 2 * i);
      }
      return out;
    };
    const latents = (count) => new Float64Array(2 * count).map(random.normal);

    function reset() {
      const discriminator = new Mlp([2, HIDDEN, HIDDEN, 1], random);
      const generator = new Mlp([2, HIDDEN, HIDDEN, 2], random);
      state = { generator, discriminator, z: latents(SHOWN) };
      state.optG = new Adam(generator, 0.002);
      state.optD = new Adam(discriminator, 0.004);
      [history, step] = [[], 0];
      if (find("data").value === "drawn" && !drawn.length) drawn = [[-0.6, 0], [0.6, 0]];
      data = points(SHOWN);
      show();
    }

    function advance(count) {
      state.minimax = find("loss").value === "minimax";
      for (let i = 0; i < count; i++) {
        history.push(trainStep(state, points(BATCH), latents(BATCH), latents(BATCH)));
        step += 1;
      }
    }

    // x and y of the plane to pixels of the canvas and back.
    const toPixel = (t, size) => ((t + RANGE) / (2 * RANGE)) * size;
    const fromEvent = (event) => {
      const box = plane.getBoundingClientRect();
      return [
        ((event.clientX - box.left) / box.width) * 2 * RANGE - RANGE,
        -(((event.clientY - box.top) / box.height) * 2 * RANGE - RANGE),
      ];
    };

    function dots(context, xs, color, radius) {
      context.fillStyle = color;
      for (let i = 0; i < xs.length; i += 2) {
        context.beginPath();
        const [x, y] = [toPixel(xs[i], plane.width), toPixel(-xs[i + 1], plane.height)];
        if (color === COLORS.generator) context.arc(x, y, radius, 0, 7);
        else context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        context.fill();
      }
    }

    // Contour lines of D by marching squares with linear interpolation on the edges.
    function contours(context) {
      const grid = new Float64Array(2 * SIDE * SIDE);
      const at = (k) => (2 * RANGE * k) / (SIDE - 1) - RANGE;
      for (let i = 0; i < SIDE * SIDE; i++) grid.set([at(i % SIDE), at(Math.floor(i / SIDE))], 2 * i);
      const logits = state.discriminator.forward(grid, SIDE * SIDE);
      context.strokeStyle = COLORS.discriminator;
      for (const level of [0.1, 0.3, 0.5, 0.7, 0.9]) {
        const cut = Math.log(level / (1 - level));
        context.lineWidth = (level === 0.5 ? 2.5 : 1) * (plane.width / 380);
        context.setLineDash(level < 0.5 ? [3, 4] : []);
        context.beginPath();
        for (let i = 0; i + 1 < SIDE; i++)
          for (let j = 0; j + 1 < SIDE; j++) {
            const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
            const values = corners.map(([x, y]) => logits[y * SIDE + x] - cut);
            const ends = [];
            for (let e = 0; e < 4; e++) {
              const [a, b] = [values[e], values[(e + 1) % 4]];
              if (a > 0 === b > 0) continue;
              const t = a / (a - b), [from, to] = [corners[e], corners[(e + 1) % 4]];
              ends.push(at(from[0]) + t * (at(to[0]) - at(from[0])),
                at(from[1]) + t * (at(to[1]) - at(from[1])));
            }
            for (let e = 0; e + 3 < ends.length; e += 4) {
              context.moveTo(toPixel(ends[e], plane.width), toPixel(-ends[e + 1], plane.height));
              context.lineTo(toPixel(ends[e + 2], plane.width), toPixel(-ends[e + 3], plane.height));
            }
          }
        context.stroke();
      }
      context.setLineDash([]);
    }

    function drawCurves() {
      const context = curves.getContext("2d"), { width, height } = curves;
      const scale = width / 380, left = 34 * scale, bottom = height - 30 * scale;
      const shown = Math.max(200, history.length), top = 3, low = find("loss").value === "minimax" ? -2 : 0;
      const x = (k) => left + ((width - left - 8 * scale) * k) / shown;
      const y = (v) => bottom - ((bottom - 30 * scale) * (Math.min(Math.max(v, low), top) - low)) / (top - low);
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, width, height);
      context.font = `${13 * scale}px sans-serif`;
      context.lineWidth = scale;
      for (let v = low; v <= top; v++) {
        context.strokeStyle = "#dddddd";
        context.strokeRect(left, y(v), width - left - 8 * scale, 0);
        context.fillStyle = "#333333";
        context.fillText(String(v).replace("-", "−"), 8 * scale, y(v) + 4 * scale);
      }
      context.fillText(`steps, 0 to ${shown}`, left, height - 8 * scale);
      context.fillText("loss in nats; dotted: where D cannot tell", left, 14 * scale);
      for (const v of [2 * Math.LN2, low < 0 ? -Math.LN2 : Math.LN2]) {
        context.setLineDash([2 * scale, 3 * scale]);
        context.strokeStyle = "#333333";
        context.strokeRect(left, y(v), width - left - 8 * scale, 0);
      }
      const every = Math.max(1, Math.floor(history.length / 300));
      for (const [name, color, dash] of [
        ["lossD", COLORS.discriminator, [6 * scale, 4 * scale]],
        ["lossG", COLORS.generator, []],
      ]) {
        context.strokeStyle = color;
        context.lineWidth = 2 * scale;
        context.setLineDash(dash);
        context.beginPath();
        let end = 0;
        for (let k = 0; k < history.length; k += every) {
          const part = history.slice(k, k + every);
          end = y(part.reduce((s, row) => s + row[name], 0) / part.length);
          context.lineTo(x(k), end);
        }
        context.stroke();
        context.fillStyle = color;
        if (end) context.fillText(name.slice(-1), Math.min(x(history.length) + 4 * scale, width - 14 * scale), end - 6 * scale);
      }
      context.setLineDash([]);
    }

    // Share of the cells of a coarse grid that hold data and that G visits, and the reverse.
    function overlap(fake) {
      const cells = (xs) => {
        const found = new Map();
        for (let i = 0; i < xs.length; i += 2) {
          const cell = [0, 1].map((j) => Math.floor(toPixel(xs[i + j], BINS))).join();
          found.set(cell, (found.get(cell) || 0) + 1);
        }
        return found;
      };
      const share = (a, b) => {
        let inside = 0, all = 0;
        for (const [cell, n] of a) (all += n), b.has(cell) && (inside += n);
        return Math.round((100 * inside) / all);
      };
      const [real, made] = [cells(data), cells(fake)];
      return { covered: share(real, made), near: share(made, real) };
    }

    function show(speak = true) {
      const context = plane.getContext("2d");
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, plane.width, plane.height);
      contours(context);
      dots(context, data, COLORS.data, plane.width / 300);
      const fake = state.generator.forward(state.z, SHOWN);
      dots(context, fake, COLORS.generator, plane.width / 170);
      if (document.activeElement === plane) {
        context.strokeStyle = "#D55E00";
        context.lineWidth = plane.width / 190;
        context.strokeRect(toPixel(pen[0], plane.width) - 8, toPixel(-pen[1], plane.height) - 8, 16, 16);
      }
      drawCurves();
      find("step").textContent = String(step);
      if (!speak) return;
      said = step;
      const { covered, near } = overlap(fake);
      const recent = history.slice(-50), average = (name) =>
        (recent.reduce((s, row) => s + row[name], 0) / recent.length).toFixed(2);
      words.textContent = !step
        ? `Not trained yet. ${near} % of the generated points lie where data are.`
        : `After ${step} steps, ${near} % of the generated points lie where data are, and they ` +
          `reach ${covered} % of the data. D's loss is ${average("lossD")} (1.39 when it cannot ` +
          `tell the two apart), G's ${average("lossG")}.`;
    }

    function frame(now) {
      if (!running) return;
      due += Math.min((now - last) / 1000, 0.1) * Number(find("speed").value);
      last = now;
      const began = performance.now();
      while (due >= 1 && performance.now() - began < 40) advance(1), (due -= 1);
      due = Math.min(due, 1);
      show(step - said >= 100); // a screen reader speaks each change of the words
      requestAnimationFrame(frame);
    }

    function run(on) {
      running = on;
      find("start").textContent = on ? "Pause" : still.matches ? "Train 200 steps" : "Train";
      if (on) (last = performance.now()), requestAnimationFrame(frame);
      else show();
    }

    find("start").addEventListener("click", () => {
      if (!still.matches) return run(!running);
      advance(200); // no motion: one new picture a press
      show();
    });
    find("one").addEventListener("click", () => (run(false), advance(1), show()));
    find("reset").addEventListener("click", () => (run(false), reset()));
    find("data").addEventListener("change", () => (run(false), reset()));
    find("loss").addEventListener("change", () => show());
    const speed = () => (find("rate").textContent = `${find("speed").value} steps a second`);
    find("speed").addEventListener("input", speed);

    // Drawing a distribution of one's own: by pointer, or by arrow keys and the space bar.
    function add(spot) {
      if (find("data").value !== "drawn") (find("data").value = "drawn"), (drawn = []);
      drawn.push(spot.map((t) => Math.max(-RANGE, Math.min(RANGE, t))));
      data = points(SHOWN);
      show(false);
    }
    plane.addEventListener("pointerdown", (event) => (run(false), add(fromEvent(event))));
    plane.addEventListener("pointermove", (event) => event.buttons && add(fromEvent(event)));
    plane.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!move && event.key !== " ") return;
      event.preventDefault();
      if (move) pen = pen.map((t, j) => Math.max(-1.4, Math.min(1.4, t + 0.1 * move[j])));
      else run(false), add(pen);
      show(false);
      words.textContent = `Pen at ${pen.map((t) => t.toFixed(1)).join(", ")}; ${drawn.length} spots drawn.`;
    });
    for (const name of ["focus", "blur"]) plane.addEventListener(name, () => show(false));
    still.addEventListener("change", () => run(false));
    // On paper, and in the PDF of the book, there is no button to press: a trained GAN is printed.
    window.addEventListener("beforeprint", () => step || (advance(600), show()));

    for (const canvas of [plane, curves]) {
      const sharp = Math.min(window.devicePixelRatio || 1, 2);
      [canvas.width, canvas.height] = [380 * sharp, (canvas === plane ? 380 : 300) * sharp];
    }
    speed();
    reset();
    run(false);
    root.hidden = false;
    root.ganSteps = () => step; // for the tests
  }

  const start = () => document.querySelectorAll("[data-gan-page]").forEach(setUp);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
