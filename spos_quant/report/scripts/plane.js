// Accuracy against cost ------------------------------------------------------------------------------------------
const plane = data.plane, points = plane.points, front = plane.front;
const costs = [...points.x, ...plane.baselines.map((b) => b.x), ...plane.budgets.map((b) => b.x)].filter((x) => x > 0);
const view = { log: Math.max(...costs) > 6 * Math.min(...costs), zoomed: false };
const at = (x) => (view.log ? Math.log10(x) : x);

// The most lines of an architecture in a hover text; more would not fit on the screen.
const SHOWN_PLACES = 18;
function hoverPlaces(text) {
  const lines = text ? text.split("<br>") : [];
  if (lines.length <= SHOWN_PLACES) return lines.map((line) => "<br>" + line).join("");
  const rest = lines.length - SHOWN_PLACES + 1;
  return [...lines.slice(0, SHOWN_PLACES - 1), `and ${rest} more: select the point`].map((line) => "<br>" + line).join("");
}

function pointsTrace(indices, name, marker) {
  return {
    type: "scatter", mode: "markers", name, customdata: indices,
    x: indices.map((i) => points.x[i]), y: indices.map((i) => points.y[i]),
    text: indices.map((i) => (points.generation[i] === null ? "" : `, generation ${points.generation[i]}`)
      + hoverPlaces(points.text[i])),
    hovertemplate: "<b>%{y:.1%}</b> at %{x:.4s}%{text}<extra></extra>", marker,
  };
}

// Baselines are among the points too, and are drawn only as baselines.
const pointOf = (b) => points.x.findIndex((x, i) => x === b.x && points.y[i] === b.y && points.generation[i] === null);
const baselinePoints = plane.baselines.map(pointOf);

function generationMarker(indices) {
  const generation = indices.map((i) => points.generation[i]);
  const last = Math.max(1, ...generation), font = { size: fontSize(), color: colour("muted") };
  const bar = phone.matches
    ? { orientation: "h", y: -0.2, yanchor: "top", len: 1, thickness: 9, title: { text: "generation", side: "top", font } }
    : { thickness: 11, len: 0.6, y: 0.5, outlinewidth: 0, title: { text: "generation", side: "right", font } };
  return {
    size: 7, opacity: 0.85, color: generation, cmin: 0, cmax: last, line: { width: 0.5, color: colour("card") },
    colorscale: [[0, colour("early")], [0.5, colour("middle")], [1, colour("late")]],
    showscale: true, colorbar: { outlinewidth: 0, ...bar },
  };
}

function planeTraces(ranges) {
  const all = points.x.map((_, i) => i), asked = all.filter((i) => points.generation[i] !== null);
  const others = all.filter((i) => points.generation[i] === null && !baselinePoints.includes(i));
  const traces = [];
  if (others.length) {
    traces.push(pointsTrace(others, "in no search", { size: 7, symbol: "circle-open", color: colour("muted") }));
  }
  if (asked.length) {
    traces.push({ ...pointsTrace(asked, "searched", generationMarker(asked)), showlegend: false });
  }
  if (front.length) {
    traces.push({
      type: "scatter", mode: "lines", name: "front", hoverinfo: "skip", x: front.map((i) => points.x[i]),
      y: front.map((i) => points.y[i]), line: { color: colour("front"), width: 2, shape: "hv" },
    });
  }
  if (plane.baselines.length) {
    traces.push({
      type: "scatter", mode: "markers+text", name: "uniform", x: plane.baselines.map((b) => b.x),
      y: plane.baselines.map((b) => b.y), text: plane.baselines.map((b) => b.name), textposition: labelPlaces(ranges),
      textfont: { color: colour("baseline") }, cliponaxis: false, customdata: baselinePoints,
      hovertext: baselinePoints.map((i) => (i < 0 ? "" : hoverPlaces(points.text[i]))),
      hovertemplate: "<b>uniform %{text}</b><br>%{y:.1%} at %{x:.4s}%{hovertext}<extra></extra>",
      marker: { size: 9, symbol: "diamond", color: colour("baseline"), line: { width: 1, color: colour("card") } },
    });
  }
  if (plane.winners.length) {
    traces.push({
      type: "scatter", mode: "markers", name: "found", x: plane.winners.map((w) => w.x), y: plane.winners.map((w) => w.y),
      text: plane.winners.map((w) => `${w.name}${w.early ? ", search ended early" : ""}`),
      customdata: plane.winners.map((w) => w.point ?? -1), hovertext: plane.winners.map((w) => hoverPlaces(w.text)),
      hovertemplate: "<b>found: %{text}</b><br>%{y:.1%} at %{x:.4s}%{hovertext}<extra></extra>",
      marker: {
        size: 16, color: colour("front"), line: { width: 1.2, color: colour("card") },
        symbol: plane.winners.map((w) => (w.early ? "star-open" : "star")),
      },
    });
  }
  if (plane.budgets.length) {
    const line = { color: colour("budget"), width: 1.5, dash: "dash" };
    traces.push({ type: "scatter", mode: "lines", name: "budget", x: [null], y: [null], line });
  }
  return traces;
}

// Axis ranges that show the front, the budgets and the found architectures, with a margin.
function frontRanges() {
  const x = front.map((i) => at(points.x[i])).concat(plane.budgets.map((b) => at(b.x)));
  const y = front.map((i) => points.y[i]).concat(plane.winners.map((w) => w.y));
  const wide = (v, share) => {
    const low = Math.min(...v), high = Math.max(...v), pad = (high - low || Math.abs(high) * 0.05 || 1) * share;
    return [low - pad, high + pad];
  };
  return [wide(x, 0.08), wide(y, 0.12)];
}

// By default Plotly labels every digit over two decades, which does not fit.
function ticksOf(range) {
  if (!view.log) return undefined;
  const [low, high] = range ?? spans()[0];
  if (high - low > (phone.matches ? 1.5 : 3)) return 1;
  return high - low > (phone.matches ? 0.5 : 0.9) ? "D2" : undefined;
}

function planeLayout(ranges) {
  const [x, y] = ranges ?? [undefined, undefined];
  const levels = labelLevels(x), top = 14 * (Math.max(-1, ...levels) + 1);
  return layoutOf({
    uirevision: JSON.stringify(view),
    xaxis: {
      title: data.unit, type: view.log ? "log" : "linear", tickformat: "~s", range: x, nticks: phone.matches ? 5 : 10,
      dtick: ticksOf(x),
    },
    yaxis: { title: "top-1 in the supernet", tickformat: ".1~%", range: y },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "top", yref: "container" },
    margin: { l: 56, r: 12, t: top + (phone.matches ? 62 : 44), b: phone.matches ? 96 : 48 },
    shapes: plane.budgets.map((b) => ({
      type: "line", x0: b.x, x1: b.x, y0: 0, y1: 1, yref: "paper", layer: "between",
      line: { color: colour("budget"), width: 1.5, dash: "dash" },
    })),
    annotations: plane.budgets.map((b, i) => ({
      x: at(b.x), y: 1, yref: "paper", yanchor: "bottom", yshift: levels[i] * 14, showarrow: false, text: b.name,
      font: { color: colour("budget"), size: fontSize() - 1 },
    })),
  });
}

function pick(event) {
  const i = event.points[0].customdata;
  if (!(i >= 0)) return;
  const box = byId("picked"), line = document.createElement("p"), command = document.createElement("div");
  const generation = points.generation[i] === null ? "" : `, generation ${points.generation[i]}`;
  line.textContent = `${(100 * points.y[i]).toFixed(1)} % at ${points.x[i].toLocaleString("en")} ${data.unit}${generation}`;
  const code = document.createElement("code"), copy = document.createElement("button"), places = document.createElement("div");
  command.className = "command";
  code.textContent = points.architecture[i];
  copy.className = "copy";
  copy.type = "button";
  copy.textContent = "Copy";
  command.append(code, copy);
  places.className = "places";
  // Hover texts are escaped for Plotly. Parsing in a separate document decodes them and runs nothing.
  places.append(...points.text[i].split("<br>").map((part) => {
    const place = document.createElement("div");
    place.textContent = new DOMParser().parseFromString(part, "text/html").body.textContent;
    return place;
  }));
  box.replaceChildren(line, command, places);
  box.hidden = false;
}

function drawPlane() {
  const plot = byId("plane-plot");
  if (!plot) return;
  const ranges = view.zoomed && front.length ? frontRanges() : undefined;
  Plotly.react(plot, planeTraces(ranges), planeLayout(ranges), config([["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]]));
  for (const [name, on] of [["plane-log", view.log], ["plane-front", view.zoomed]]) {
    byId(name).setAttribute("aria-pressed", String(on));
  }
}

if (byId("plane-plot")) {
  byId("plane-log").addEventListener("click", () => { view.log = !view.log; drawPlane(); });
  byId("plane-front").addEventListener("click", () => { view.zoomed = !view.zoomed; drawPlane(); });
  byId("plane-front").hidden = front.length < 2;
}
