"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function draw() {
    const css = getComputedStyle(document.documentElement);
    const fg = css.getPropertyValue("--fg").trim(), line = css.getPropertyValue("--line").trim();
    const narrow = window.innerWidth < 600;
    for (const [name, figure] of Object.entries(figures)) {
      const layout = Object.assign({
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: fg },
        margin: { t: 40, r: 20, b: 50, l: 60 }, legend: { orientation: "h", y: -0.22 }, hovermode: "closest", modebar: { bgcolor: "rgba(0,0,0,0)" },
      }, figure.layout);
      for (const key of Object.keys(layout)) {
        if (/^[xy]axis/.test(key)) layout[key] = Object.assign({ gridcolor: line, zerolinecolor: line }, layout[key]);
      }
      if (narrow) layout.margin = { t: 40, r: 10, b: 50, l: 45 };
      Plotly.react("plot-" + name, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: !narrow });
    }
  }
  if (Object.keys(figures).length) {
    draw();
    dark.addEventListener("change", draw);
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = button.dataset.copy;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        // Pages opened from disk may not use the clipboard: the text is selected instead.
        getSelection().selectAllChildren(button.previousElementSibling);
        return;
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.cells[column];
          return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
        };
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
  }
})();
