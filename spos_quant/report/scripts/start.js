function draw() {
  drawPlane();
  drawCurves();
  drawRanking();
  drawBench();
  drawSensitivities();
}

// Themes and printing -----------------------------------------------------------------------------------------------
const opened = [];
function preparePrint(on) {
  document.documentElement.classList.toggle("printing", on);
  if (on) opened.push(...[...document.querySelectorAll("details:not([open])")].filter((d) => !d.closest("#plane")));
  for (const fold of opened) fold.open = on;
  if (!on) opened.length = 0;
  draw();
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    // Paper is narrower than a screen, and plots do not shrink by themselves.
    const small = plot.closest(".pair");
    Plotly.relayout(plot, on
      ? { width: small ? 330 : 680, height: small ? 240 : 400 }
      : { width: undefined, height: undefined, autosize: true });
  }
}
window.addEventListener("beforeprint", () => preparePrint(true));
window.addEventListener("afterprint", () => preparePrint(false));
dark.addEventListener("change", draw);
phone.addEventListener("change", draw);
draw();
byId("plane-plot")?.on("plotly_click", pick);
byId("plane-plot")?.on("plotly_relayout", (change) => {
  const axis = byId("plane-plot").layout.xaxis, wanted = ticksOf(axis.autorange ? undefined : axis.range);
  if (!("xaxis.dtick" in change) && axis.dtick !== wanted) Plotly.relayout("plane-plot", { "xaxis.dtick": wanted ?? null });
});
