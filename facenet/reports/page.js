"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), body = header.closest("table").tBodies[0];
    const falling = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = row => row.cells[header.cellIndex].dataset.key;
    const order = (a, b) => (isNaN(a - b) ? a.localeCompare(b) : a - b) * (falling ? -1 : 1);
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  });
}
