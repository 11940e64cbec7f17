"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    const key = cell.dataset.key ?? cell.textContent.trim();
    return key === "" ? null : cell.dataset.key === undefined ? key : Number(key);
  };
  const sort = (column, direction) => {
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    body.append(...rows.map(([, row]) => row));
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const first = head.dataset.first === "descending" ? -1 : 1;
    button.addEventListener("click", () => {
      const now = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")];
      sort(column, now === undefined ? first : -now);
    });
  });
}
