// Sensitivity ----------------------------------------------------------------------------------------------------
function drawSensitivities() {
  for (const found of data.sensitivities) {
    const plot = byId(found.id);
    if (!plot) continue;
    const traces = found.bars.map((bar, i) => ({
      type: "bar", name: bar.name, x: bar.x, y: bar.y, marker: { color: colour("curve-" + (i % 6)) },
      hovertemplate: `<b>%{y:+.4f}</b> ${found.title}<br>%{x}, ${bar.name}<extra></extra>`,
    }));
    const layout = layoutOf({
      barmode: "group", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      xaxis: { categoryorder: "array", categoryarray: found.axes, tickangle: -45, automargin: true },
      yaxis: { title: found.title }, margin: { l: 60, r: 12, t: 40, b: 90 },
    });
    Plotly.react(plot, traces, layout, config());
  }
}

