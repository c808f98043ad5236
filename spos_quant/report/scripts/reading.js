// Sortable tables -----------------------------------------------------------------------------------------------
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
  // Unknown numbers go last in both directions.
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
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Some browsers deny file: pages the clipboard. Falls back to execCommand, then to selecting the text.
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) done = "Selected";
  }
  button.textContent = done;
  byId("status").textContent = done;
  setTimeout(() => { button.textContent = "Copy"; byId("status").textContent = ""; }, 1600);
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});
