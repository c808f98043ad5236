// Learning curves ------------------------------------------------------------------------------------------------
// Adjacent curves differ in dash and colour. Every six curves the pairing of dash and colour shifts by one.
const DASHES = { solid: "", "7px 3px": "7 3", "2px 3px": "2 3", "9px 3px 2px 3px": "9 3 2 3", "14px 4px": "14 4", "4px 4px": "4 4" };
const styleOf = (i) => ({
  color: colour("curve-" + ((i + Math.floor(i / 6)) % 6)), dash: Object.keys(DASHES)[i % 6], width: 2,
});
const skippedText = (n) => (n ? `<br>${n} step${n === 1 ? "" : "s"} skipped: loss not finite` : "");

function drawCurve(id, key, title, format) {
  const traces = data.curves.map((curve, i) => ({
    type: "scatter", mode: curve.epoch.length > 1 ? "lines" : "markers", name: curve.name, x: curve.epoch, y: curve[key],
    line: styleOf(i), marker: { color: styleOf(i).color }, showlegend: false, text: curve.skipped.map(skippedText),
    hovertemplate: `%{y:${format}}, epoch %{x}%{text}<extra>${curve.name}</extra>`,
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
    const style = styleOf(i), pattern = DASHES[style.dash];
    for (const [name, value] of Object.entries({ width: 34, height: 10 })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x1: 0, x2: 34, y1: 5, y2: 5, stroke: style.color, "stroke-width": 2.5 })) {
      line.setAttribute(name, value);
    }
    if (pattern) line.setAttribute("stroke-dasharray", pattern);
    svg.append(line);
    item.append(svg, new DOMParser().parseFromString(curve.name, "text/html").body.textContent);
    return item;
  }));
}
