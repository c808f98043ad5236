const data = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const phone = window.matchMedia("screen and (max-width: 760px)");
const printing = () => document.documentElement.classList.contains("printing");
const fontSize = () => (printing() ? 10 : phone.matches ? 11 : 13);
// An explicit list of buttons, without Plotly's button that uploads a chart.
const config = (buttons) => ({
  responsive: true, displaylogo: false, displayModeBar: Boolean(buttons) && !phone.matches, modeBarButtons: buttons ?? [],
});

function layoutOf(change) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
  const font = { size: fontSize(), color: colour("muted") }, family = getComputedStyle(document.body).fontFamily;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: colour("text"), family, size: fontSize() },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("muted"), font: { color: colour("text"), family, size: fontSize() }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
    margin: { l: 56, r: 12, t: 30, b: 48 }, ...change,
    xaxis: { ...axis, ...change.xaxis, title: { text: change.xaxis.title, font } },
    yaxis: { ...axis, ...change.yaxis, title: { text: change.yaxis.title, font, standoff: 12 } },
  };
}
