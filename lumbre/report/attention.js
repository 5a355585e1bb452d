"use strict";
// Draws attention maps: a small picture for each head of each layer, and the chosen one large with its tokens.
const FINEST = 65535;

function weightsOf(maps) {
  const bytes = Uint8Array.from(atob(maps.weights), letter => letter.charCodeAt(0));
  const whole = new DataView(bytes.buffer), size = maps.queries.length * maps.keys.length;
  return (layer, head) => {
    const from = (layer * maps.heads + head) * size;
    return Array.from({length: size}, (_, i) => whole.getUint16(2 * (from + i), true) / FINEST);
  };
}

function paint(canvas, weights, columns) {
  const context = canvas.getContext("2d"), image = context.createImageData(columns, weights.length / columns);
  const [red, green, blue] = css("--heat").split(",").map(Number);
  weights.forEach((weight, i) => image.data.set([red, green, blue, 255 * Math.sqrt(weight)], 4 * i));
  context.putImageData(image, 0, 0);
}

function showHead(place, maps, weights, layer, head) {
  const columns = maps.keys.length, layout = layoutOf(`${maps.title}: layer ${layer + 1}, head ${head + 1}`);
  const ticks = tokens => ({tickvals: tokens.map((_, i) => i), ticktext: tokens.map(literal), showgrid: false, tickangle: "auto"});
  layout.hovermode = "closest";
  layout.dragmode = COARSE ? false : "zoom";
  layout.xaxis = {...layout.xaxis, ...ticks(maps.keys), tickangle: -60};
  layout.yaxis = {...layout.yaxis, ...ticks(maps.queries), autorange: "reversed"};
  const rows = maps.queries.map((_, i) => weights.slice(i * columns, (i + 1) * columns));
  const heat = css("--heat");
  Plotly.react(place, [{type: "heatmap", z: rows, zmin: 0, zmax: 1, showscale: false, xgap: 1, ygap: 1,
    colorscale: [[0, `rgba(${heat},0)`], [0.04, `rgba(${heat},0.2)`], [0.25, `rgba(${heat},0.5)`], [1, `rgba(${heat},1)`]],
    text: maps.queries.map(query => maps.keys.map(key => `${literal(query)} → ${literal(key)}`)),
    hovertemplate: "%{text}<br>%{z:.2%}<extra></extra>"}], layout, CONFIG);
}

function drawAttention(place) {
  const maps = DATA.attention[Number(place.dataset.maps)], read = weightsOf(maps), columns = maps.keys.length;
  const grid = Object.assign(document.createElement("div"), {className: "heads"});
  const told = Object.assign(document.createElement("div"), {className: "told soft"});
  const large = Object.assign(document.createElement("figure"), {className: "head"});
  const hint = `${maps.title}: a row of pictures for each layer, one for each head; rows look at columns. Choose one.`;
  grid.style.gridTemplateColumns = `22px repeat(${maps.heads}, minmax(34px, 92px))`;
  told.textContent = hint;
  place.append(told, grid, large);
  const choose = (canvas, weights, layer, head) => {
    grid.querySelector(".chosen")?.classList.remove("chosen");
    canvas.classList.add("chosen");
    showHead(large, maps, weights, layer, head);
  };
  for (let layer = 0; layer < maps.layers; layer++) {
    grid.append(Object.assign(document.createElement("span"), {textContent: layer + 1, title: `layer ${layer + 1}`}));
    for (let head = 0; head < maps.heads; head++) {
      const weights = read(layer, head), canvas = document.createElement("canvas");
      Object.assign(canvas, {width: columns, height: maps.queries.length, tabIndex: 0});
      canvas.setAttribute("role", "button");
      canvas.setAttribute("aria-label", `layer ${layer + 1}, head ${head + 1}`);
      paint(canvas, weights, columns);
      canvas.onmousemove = event => {
        const at = (part, whole, count) => Math.min(count - 1, Math.max(0, Math.floor(part / whole * count)));
        const query = at(event.offsetY, canvas.clientHeight, maps.queries.length), key = at(event.offsetX, canvas.clientWidth, columns);
        told.textContent = `layer ${layer + 1}, head ${head + 1}: ${maps.queries[query]} → ${maps.keys[key]}  `
          + `${(100 * weights[query * columns + key]).toFixed(1)}%`;
      };
      canvas.onmouseleave = () => { told.textContent = hint; };
      canvas.onclick = () => choose(canvas, weights, layer, head);
      canvas.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); canvas.click(); } };
      grid.append(canvas);
      if (!layer && !head) choose(canvas, weights, 0, 0);
    }
  }
}

document.querySelectorAll("[data-maps]").forEach(drawAttention);
