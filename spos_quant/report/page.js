"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (name) => document.getElementById(name);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const phone = window.matchMedia("screen and (max-width: 760px)");
  const config = () => ({
    responsive: true, displaylogo: false, displayModeBar: phone.matches ? false : "hover",
    // Nothing leaves the page: Plotly's button that uploads a chart goes too.
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud", "sendDataToCloud"],
  });

  function layoutOf(change) {
    const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
    const font = { size: phone.matches ? 11 : 13, color: colour("muted") };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: colour("text"), family: getComputedStyle(document.body).fontFamily, size: phone.matches ? 11 : 13 },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("muted"), font: { color: colour("text") }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
      margin: { l: 56, r: 12, t: 30, b: 48 }, ...change,
      xaxis: { ...axis, ...change.xaxis, title: { text: change.xaxis.title, font } },
      yaxis: { ...axis, ...change.yaxis, title: { text: change.yaxis.title, font } },
    };
  }

  // Accuracy against cost ------------------------------------------------------------------------------------------
  const plane = data.plane, points = plane.points, front = plane.front;
  const costs = [...points.x, ...plane.baselines.map((b) => b.x), ...plane.budgets.map((b) => b.x)].filter((x) => x > 0);
  const view = { log: Math.max(...costs) > 6 * Math.min(...costs), zoomed: false };
  const at = (x) => (view.log ? Math.log10(x) : x);

  function pointsTrace(indices, name, marker) {
    return {
      type: "scatter", mode: "markers", name, customdata: indices,
      x: indices.map((i) => points.x[i]), y: indices.map((i) => points.y[i]),
      text: indices.map((i) => (points.generation[i] === null ? "" : `, generation ${points.generation[i]}`)
        + (points.text[i] && "<br>" + points.text[i])),
      hovertemplate: "<b>%{y:.1%}</b> at %{x:.4s}%{text}<extra></extra>", marker,
    };
  }

  function generationMarker(indices) {
    const generation = indices.map((i) => points.generation[i]);
    const last = Math.max(1, ...generation);
    const bar = phone.matches
      ? { orientation: "h", y: -0.2, yanchor: "top", len: 1, thickness: 9, title: { text: "generation", side: "top" } }
      : { thickness: 11, len: 0.6, y: 0.5, outlinewidth: 0, title: { text: "generation", side: "right" } };
    return {
      size: 7, opacity: 0.85, color: generation, cmin: 0, cmax: last, line: { width: 0.5, color: colour("card") },
      colorscale: [[0, colour("early")], [0.5, colour("middle")], [1, colour("late")]],
      showscale: true, colorbar: { outlinewidth: 0, ...bar },
    };
  }

  // Labels of baselines that cost about the same go to different sides of their points.
  function labelPlaces(baselines) {
    const width = Math.max(...costs.map(at)) - Math.min(...costs.map(at)) || 1;
    const near = (a, b) => Math.abs(at(a.x) - at(b.x)) < width * (phone.matches ? 0.12 : 0.06);
    const before = (a, b) => b.x < a.x || (b.x === a.x && b.y > a.y);
    return baselines.map((a) => {
      const group = baselines.filter((b) => near(a, b)), rank = group.filter((b) => before(a, b)).length;
      if (group.length === 1) return "bottom center";
      if (rank === 0) return "middle left";
      if (rank === group.length - 1) return "middle right";
      return group.some((b) => b.y > a.y) ? "bottom center" : "top center";
    });
  }

  // How far up each budget's label goes so that none covers another: widths are guessed from the letters.
  function labelLevels(range) {
    const [low, high] = range ?? [Math.min(...costs.map(at)), Math.max(...costs.map(at))];
    const width = byId("plane-plot").clientWidth * 0.8, ends = [];
    return plane.budgets.map((b) => {
      const x = ((at(b.x) - low) / (high - low || 1)) * width, half = b.name.length * 3.5 + 5;
      let level = ends.findIndex((end) => end < x - half);
      if (level < 0) level = ends.length;
      ends[level] = x + half;
      return level;
    });
  }

  function planeTraces() {
    const all = points.x.map((_, i) => i);
    const asked = all.filter((i) => points.generation[i] !== null), others = all.filter((i) => points.generation[i] === null);
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
        y: plane.baselines.map((b) => b.y), text: plane.baselines.map((b) => b.name), textposition: labelPlaces(plane.baselines),
        textfont: { color: colour("baseline") }, cliponaxis: false,
        hovertemplate: "<b>uniform %{text}</b><br>%{y:.1%} at %{x:.4s}<extra></extra>",
        marker: { size: 9, symbol: "diamond", color: colour("baseline"), line: { width: 1, color: colour("card") } },
      });
    }
    if (plane.winners.length) {
      traces.push({
        type: "scatter", mode: "markers", name: "found", x: plane.winners.map((w) => w.x), y: plane.winners.map((w) => w.y),
        text: plane.winners.map((w) => w.name), hovertemplate: "<b>found: %{text}</b><br>%{y:.1%} at %{x:.4s}<extra></extra>",
        marker: { size: 16, symbol: "star", color: colour("front"), line: { width: 1.2, color: colour("card") } },
      });
    }
    if (plane.budgets.length) {
      const line = { color: colour("budget"), width: 1.5, dash: "dash" };
      traces.push({ type: "scatter", mode: "lines", name: "budget", x: [null], y: [null], line });
    }
    return traces;
  }

  // The ranges of the front alone, with a margin: what a search is about fills the plot.
  function frontRanges() {
    const x = front.map((i) => at(points.x[i])).concat(plane.budgets.map((b) => at(b.x)));
    const y = front.map((i) => points.y[i]).concat(plane.winners.map((w) => w.y));
    const wide = (v, share) => {
      const low = Math.min(...v), high = Math.max(...v), pad = (high - low || Math.abs(high) * 0.05 || 1) * share;
      return [low - pad, high + pad];
    };
    return [wide(x, 0.08), wide(y, 0.12)];
  }

  // Left alone, Plotly labels every digit of two decades, for which there is no room.
  function ticksOf(range) {
    if (!view.log) return undefined;
    const [low, high] = range ?? [Math.min(...costs.map(at)), Math.max(...costs.map(at))];
    if (high - low > (phone.matches ? 1.5 : 3)) return 1;
    return high - low > (phone.matches ? 0.5 : 0.9) ? "D2" : undefined;
  }

  function planeLayout() {
    const [x, y] = view.zoomed && front.length ? frontRanges() : [undefined, undefined];
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
        type: "line", x0: b.x, x1: b.x, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: colour("budget"), width: 1.5, dash: "dash" },
      })),
      annotations: plane.budgets.map((b, i) => ({
        x: at(b.x), y: 1, yref: "paper", yanchor: "bottom", yshift: levels[i] * 14, showarrow: false, text: b.name,
        font: { color: colour("budget"), size: 12 },
      })),
    });
  }

  function pick(event) {
    const i = event.points[0].customdata;
    if (typeof i !== "number") return;
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
    // Hover texts are escaped for Plotly; parsed as a document of its own, nothing in them can load or run.
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
    Plotly.react(plot, planeTraces(), planeLayout(), config());
    for (const [name, on] of [["plane-log", view.log], ["plane-front", view.zoomed]]) {
      byId(name).setAttribute("aria-pressed", String(on));
    }
  }

  if (byId("plane-plot")) {
    byId("plane-log").addEventListener("click", () => { view.log = !view.log; drawPlane(); });
    byId("plane-front").addEventListener("click", () => { view.zoomed = !view.zoomed; drawPlane(); });
    byId("plane-front").hidden = front.length < 2;
  }

  // Learning curves ------------------------------------------------------------------------------------------------
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const styleOf = (i) => ({ color: colour("curve-" + (i % 6)), dash: DASHES[Math.floor(i / 6) % DASHES.length], width: 2 });

  function drawCurve(id, key, title, format) {
    const traces = data.curves.map((curve, i) => ({
      type: "scatter", mode: curve.epoch.length > 1 ? "lines" : "markers", name: curve.name, x: curve.epoch, y: curve[key],
      line: styleOf(i), marker: { color: styleOf(i).color }, showlegend: false,
      hovertemplate: `%{y:${format}}, epoch %{x}<extra>${curve.name}</extra>`,
    }));
    const layout = layoutOf({
      xaxis: { title: "epoch", rangemode: "tozero" }, margin: { l: 56, r: 8, t: 12, b: 44 },
      yaxis: { title, tickformat: key === "top1" ? ".1~%" : undefined },
    });
    Plotly.react(byId(id), traces, layout, config());
  }

  function drawCurves() {
    const legend = byId("curves-legend");
    if (!legend) return;
    drawCurve("loss-plot", "loss", "training loss", ".3f");
    drawCurve("top1-plot", "top1", "training top-1", ".1%");
    legend.replaceChildren(...data.curves.map((curve, i) => {
      const item = document.createElement("span"), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const style = styleOf(i), pattern = { dash: "6 4", dot: "2 3", dashdot: "6 3 2 3" }[style.dash];
      for (const [name, value] of Object.entries({ width: 26, height: 10 })) svg.setAttribute(name, value);
      for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, stroke: style.color, "stroke-width": 2.5 })) {
        line.setAttribute(name, value);
      }
      if (pattern) line.setAttribute("stroke-dasharray", pattern);
      svg.append(line);
      item.append(svg, new DOMParser().parseFromString(curve.name, "text/html").body.textContent);
      return item;
    }));
  }

  function draw() {
    drawPlane();
    drawCurves();
  }

  // Tables that sort -----------------------------------------------------------------------------------------------
  function compare(a, b) {
    const x = a.dataset.value ?? a.textContent, y = b.dataset.value ?? b.textContent;
    const numbers = x !== "" && y !== "" && !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
    return numbers ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
  }

  function sortBy(table, column, head) {
    const numeric = head.classList.contains("number"), now = head.getAttribute("aria-sort");
    const up = now ? now === "descending" : !numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    // A number that is not known goes last whichever way the column is sorted.
    const unknown = (row) => numeric && row.cells[column].dataset.value === undefined;
    rows.sort((a, b) => unknown(a) - unknown(b) || compare(a.cells[column], b.cells[column]) * (up ? 1 : -1));
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => sortBy(table, column, head));
    });
  }

  // One network at a time ------------------------------------------------------------------------------------------
  const choosers = [...document.querySelectorAll("select.chooser")];
  function show(key) {
    for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.result !== key;
    for (const select of choosers) select.value = key;
  }
  for (const select of choosers) {
    select.closest(".tools").hidden = false;
    select.addEventListener("change", () => show(select.value));
  }
  if (choosers.length) show(choosers[0].value);

  // Copying --------------------------------------------------------------------------------------------------------
  async function copy(button) {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Some browsers keep the clipboard from pages on disk: the text is selected, ready for the keyboard.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
  });

  // Themes and paper -----------------------------------------------------------------------------------------------
  const opened = [];
  function paper(on) {
    document.documentElement.classList.toggle("printing", on);
    if (on) opened.push(...[...document.querySelectorAll("details:not([open])")].filter((d) => !d.closest("#plane")));
    for (const fold of opened) fold.open = on;
    if (!on) opened.length = 0;
    draw();
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      // Paper is narrower than a screen, and a drawing does not shrink by itself.
      const small = plot.closest(".pair");
      Plotly.relayout(plot, on
        ? { width: small ? 330 : 680, height: small ? 240 : 400 }
        : { width: undefined, height: undefined, autosize: true });
    }
  }
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
  dark.addEventListener("change", draw);
  phone.addEventListener("change", draw);
  draw();
  byId("plane-plot")?.on("plotly_click", pick);
  byId("plane-plot")?.on("plotly_relayout", (change) => {
    const axis = byId("plane-plot").layout.xaxis, wanted = ticksOf(axis.autorange ? undefined : axis.range);
    if (!("xaxis.dtick" in change) && axis.dtick !== wanted) Plotly.relayout("plane-plot", { "xaxis.dtick": wanted ?? null });
  });
})();
