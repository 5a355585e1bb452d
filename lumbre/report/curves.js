"use strict";
// Draws the curves: every figure holds all runs, and one set of controls serves them all.
const DATA = JSON.parse(document.getElementById("data").textContent);
const AXES = {step: "steps", tokens: "tokens", samples: "samples", seconds: "time"};
const COARSE = matchMedia("(pointer: coarse)").matches;
const view = {axis: "step", log: false, smooth: 3, range: null, hidden: new Set()};

// Plotly reads some tags in its texts; what comes from a run is text alone.
const literal = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layoutOf(title) {
  const axis = {gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true,
    tickfont: {color: css("--soft"), size: 11}};
  return {
    title: {text: literal(title), font: {size: 13, color: css("--ink")}, x: 0, xanchor: "left", xref: "container", y: 0.97,
      yanchor: "top"},
    margin: {l: 46, r: 10, t: 34, b: 34}, showlegend: false, hovermode: "x unified",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {family: "system-ui, DejaVu Sans, sans-serif", color: css("--ink")},
    hoverlabel: {bgcolor: css("--sheet"), bordercolor: css("--line"), font: {size: 12, color: css("--ink")}},
    xaxis: {...axis, showgrid: false}, yaxis: {...axis}, dragmode: COARSE ? false : "zoom",
  };
}

const CONFIG = {displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};

// Tokens, samples or seconds at a step, between the steps where the run told them; null outside.
function along(run, step) {
  if (view.axis === "step") return step;
  const steps = run.axes[view.axis + "_at"], values = run.axes[view.axis];
  if (!steps || step === null) return null;
  let low = 0, high = steps.length - 1;
  if (step >= steps[high]) return step === steps[high] ? values[high] : null;
  if (step <= steps[0]) return step < 0 ? null : values[0] * (steps[0] ? step / steps[0] : 1);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle; else high = middle;
  }
  return values[low] + (values[high] - values[low]) * (step - steps[low]) / (steps[high] - steps[low]);
}

// The mean around each value, over a share of the line; gaps stay gaps.
function smoothed(values, percent) {
  const reach = Math.round(values.length * percent / 200);
  if (reach < 1) return values;
  const sums = [0], counts = [0];
  values.forEach((value, i) => {
    sums.push(sums[i] + (value ?? 0));
    counts.push(counts[i] + (value === null ? 0 : 1));
  });
  return values.map((value, i) => {
    const from = Math.max(0, i - reach), to = Math.min(values.length, i + reach + 1);
    return value === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
  });
}

function timeUnit() {
  const most = Math.max(0, ...DATA.runs.flatMap(run => run.axes.seconds?.slice(-1) ?? []));
  return most > 7200 ? [3600, "hours"] : most > 180 ? [60, "minutes"] : [1, "seconds"];
}

function places(run, steps) {
  const divisor = view.axis === "seconds" ? timeUnit()[0] : 1;
  return steps.map(step => { const at = along(run, step); return at === null ? null : at / divisor; });
}

function tracesOf(figure) {
  const traces = [];
  for (const line of figure.lines) {
    const run = DATA.runs[line.run];
    if (view.hidden.has(line.run)) continue;
    const many = figure.lines.filter(other => other.run === line.run).length > 1;
    const name = literal(run.name) + (line.dots && many ? " evaluation" : "");
    const shared = {name, meta: line.run, type: "scatter", connectgaps: false,
      hovertemplate: "%{y:.5~g}<extra>%{fullData.name}</extra>"};
    const raw = {...shared, x: places(run, line.x), y: line.y};
    if (line.dots || line.x.length < 2) {
      traces.push({...raw, mode: line.x.length > 1 && !many ? "lines+markers" : "markers",
        line: {color: run.color, width: 1.2}, marker: {color: run.color, size: 7, line: {color: css("--sheet"), width: 1}}});
      continue;
    }
    const flat = line.mean_y ?? line.y, means = figure.exact ? flat : smoothed(flat, view.smooth);
    const bare = figure.exact || (means === flat && !line.mean_y);
    traces.push({...raw, mode: "lines", line: {color: run.color, width: bare ? 1.6 : 0.8},
      opacity: bare || !view.smooth ? 1 : 0.35, ...(bare || !view.smooth ? {} : {hoverinfo: "skip", hovertemplate: null})});
    if (!bare && view.smooth) {
      traces.push({...shared, x: places(run, line.mean_x ?? line.x), y: means, mode: "lines", line: {color: run.color, width: 1.8}});
    }
  }
  return traces;
}

const shownEvents = () => DATA.events.filter(event => !view.hidden.has(event.run))
  .map(event => ({...event, x: places(DATA.runs[event.run], [event.step])[0]})).filter(event => event.x !== null);

// The mark stands on the top edge of the figure, in the run's colour; its message is on hover.
function eventMarks(figure) {
  const marks = shownEvents();
  if (!figure.first || !marks.length) return [];
  return [{x: marks.map(mark => mark.x), y: marks.map(() => 1), yaxis: "y2", type: "scatter", mode: "markers", name: "events",
    marker: {symbol: "triangle-down", size: 9, color: marks.map(mark => DATA.runs[mark.run].color)},
    text: marks.map(mark => literal(mark.event + (mark.message ? ": " + mark.message : "")).replace(/(.{60}\S*)\s/g, "$1<br>")),
    hovertemplate: "%{text}<extra>%{x:,.0f}</extra>"}];
}

function eventLines() {
  return shownEvents().map(event => ({type: "line", x0: event.x, x1: event.x, yref: "paper", y0: 0, y1: 1,
    line: {color: DATA.runs[event.run].color, width: 1, dash: "dot"}, opacity: 0.45}));
}

function draw(place, figure) {
  const layout = layoutOf(figure.title);
  layout.xaxis.title = {text: view.axis === "seconds" ? timeUnit()[1] : AXES[view.axis], font: {size: 11, color: css("--soft")}, standoff: 6};
  if (view.range) layout.xaxis.range = [...view.range];
  layout.yaxis.type = view.log ? "log" : "linear";
  layout.yaxis.exponentformat = "SI";
  if (figure.zero && !view.log) layout.yaxis.rangemode = "tozero";
  layout.yaxis2 = {overlaying: "y", range: [0, 1.02], visible: false, fixedrange: true};
  layout.shapes = eventLines();
  Plotly.react(place, [...tracesOf(figure), ...eventMarks(figure)], layout, CONFIG);
  if (place.dataset.drawn) return;
  place.dataset.drawn = "yes";
  place.on("plotly_relayout", change => {
    const [from, to] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (from === undefined && !change["xaxis.autorange"]) return;
    if (from !== undefined && view.range && view.range[0] === from && view.range[1] === to) return;
    if (from === undefined && !view.range) return;
    view.range = from === undefined ? null : [from, to];
    redraw(place);
  });
}

const figures = new Map();
const near = new Set();
const stale = new Set();

// Figures that are far from the screen wait until they come near it.
const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (!entry.isIntersecting) { near.delete(entry.target); continue; }
    near.add(entry.target);
    if (stale.delete(entry.target)) draw(entry.target, figures.get(entry.target));
  }
}, {rootMargin: "400px"});

function redraw(except) {
  for (const [place, figure] of figures) {
    if (place === except) continue;
    if (near.has(place)) draw(place, figure); else stale.add(place);
  }
}

function layOut(root) {
  let group = null, grid = null;
  DATA.figures.forEach((figure, number) => {
    if (figure.group !== group || !grid) {
      group = figure.group;
      grid = document.createElement("div");
      grid.className = "grid";
      if (group) root.append(Object.assign(document.createElement("h3"), {textContent: group}));
      root.append(grid);
    }
    figure.first = number === 0;
    const place = document.createElement("figure");
    place.dataset.key = figure.key;
    place.setAttribute("aria-label", figure.title);
    if (figure.first) place.className = "first";
    grid.append(place);
    figures.set(place, figure);
    stale.add(place);
    watcher.observe(place);
  });
}

function connect() {
  const axis = document.getElementById("axis");
  for (const [key, word] of Object.entries(AXES)) {
    if (DATA.runs.some(run => run.axes[key])) axis.append(new Option(word, key));
  }
  axis.onchange = () => { view.axis = axis.value; view.range = null; redraw(); };
  const log = document.getElementById("log"), smooth = document.getElementById("smooth");
  log.onchange = () => { view.log = log.checked; redraw(); };
  smooth.oninput = () => { view.smooth = Number(smooth.value); requestAnimationFrame(() => redraw()); };
  document.getElementById("whole").onclick = () => { view.range = null; redraw(); };
  DATA.runs.forEach((run, number) => {
    const button = Object.assign(document.createElement("button"), {type: "button", textContent: run.name});
    button.style.setProperty("--color", run.color);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      const shown = view.hidden.delete(number);
      if (!shown) view.hidden.add(number);
      button.setAttribute("aria-pressed", String(shown));
      redraw();
    };
    document.getElementById("runs").append(button);
  });
}

function drawScores() {
  for (const place of document.querySelectorAll("[data-scores]")) {
    const {metric, scores} = JSON.parse(place.dataset.scores), names = Object.keys(scores);
    const layout = layoutOf(metric);
    layout.hovermode = "closest";
    layout.height = 80 + 44 * names.length;
    layout.yaxis = {...layout.yaxis, autorange: "reversed", tickvals: names.map((_, i) => i), ticktext: names.map(literal)};
    layout.xaxis.showgrid = true;
    Plotly.react(place, names.flatMap((name, i) => {
      const color = DATA.runs.length > 1 ? css("--ember") : ["#c2542d", "#2f7fb5", "#5a9a5a", "#9a68a5"][i % 4];
      const mean = scores[name].reduce((a, b) => a + b) / scores[name].length;
      return [
        {x: scores[name], y: scores[name].map(() => i), mode: "markers", marker: {color, size: 9, opacity: 0.75},
          hovertemplate: "%{x:.4f}<extra></extra>"},
        {x: [mean, mean], y: [i - 0.28, i + 0.28], mode: "lines", line: {color, width: 2.5},
          hovertemplate: "mean %{x:.4f}<extra></extra>"},
      ];
    }), layout, {...CONFIG, displayModeBar: false});
  }
}

const curves = document.getElementById("curves");
if (curves) { connect(); layOut(curves); }
drawScores();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (curves) redraw(); drawScores(); });
