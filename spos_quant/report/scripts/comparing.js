// Ranking and bench ----------------------------------------------------------------------------------------------
const errorBars = (high, low) => ({
  type: "data", symmetric: !low, array: high, ...(low ? { arrayminus: low } : {}), thickness: 1, width: 3,
  color: colour("muted"), visible: high.some((value) => value > 0),
});

function drawRanking() {
  const plot = byId("ranking-plot"), ranking = data.ranking;
  if (!plot) return;
  const bar = phone.matches
    ? { orientation: "h", y: -0.2, yanchor: "top", len: 1, thickness: 9, title: { text: ranking.unit, side: "top" } }
    : { thickness: 11, len: 0.7, title: { text: ranking.unit, side: "right" } };
  const marker = {
    size: 9, color: ranking.cost, line: { width: 0.5, color: colour("card") }, showscale: true,
    colorscale: [[0, colour("early")], [0.5, colour("middle")], [1, colour("late")]],
    colorbar: { outlinewidth: 0, tickformat: "~s", ...bar },
  };
  const trace = {
    type: "scatter", mode: "markers", x: ranking.x, y: ranking.y, marker, error_y: errorBars(ranking.high, ranking.low),
    text: ranking.cost.map((cost, i) => `${cost.toLocaleString("en")} ${ranking.unit}<br>${ranking.architecture[i]}`),
    hovertemplate: "<b>%{y:.1%}</b> stand-alone, %{x:.1%} in the supernet<br>%{text}<extra></extra>",
  };
  const layout = layoutOf({
    xaxis: { title: "top-1 in the supernet", tickformat: ".1~%" }, yaxis: { title: "top-1 of stand-alone training", tickformat: ".1~%" },
    margin: { l: 56, r: 12, t: 12, b: phone.matches ? 96 : 48 },
  });
  Plotly.react(plot, [trace], layout, config());
}

function drawBench() {
  const plot = byId("bench-plot"), bench = data.bench;
  if (!plot) return;
  const trace = {
    type: "scatter", mode: "markers+text", x: bench.x, y: bench.y, text: bench.name, textposition: "top center",
    cliponaxis: false, marker: { size: 9, color: colour("front"), line: { width: 1, color: colour("card") } },
    error_y: errorBars(bench.spread), customdata: bench.key,
    hovertemplate: "<b>%{customdata}</b><br>%{y:.1%} at %{x:.4s}<extra></extra>",
  };
  const log = Math.max(...bench.x) > 6 * Math.min(...bench.x);
  const layout = layoutOf({
    xaxis: { title: bench.unit, tickformat: "~s", type: log ? "log" : "linear" }, yaxis: { title: "test top-1", tickformat: ".1~%" },
    margin: { l: 56, r: 24, t: 30, b: 48 },
  });
  Plotly.react(plot, [trace], layout, config());
}
