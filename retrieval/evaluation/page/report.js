"use strict";

// Headings of tables become buttons that sort: numbers by what they stand for, largest first, names
// by the alphabet; what is missing stays last. Without this script the tables are as they are.

function sortKey(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compareRows(column, isText, sign) {
  return (first, second) => {
    if (isText) {
      const [a, b] = [first, second].map((row) => row.cells[column].textContent);
      return sign * a.localeCompare(b, "en", { numeric: true });
    }
    const [a, b] = [sortKey(first, column), sortKey(second, column)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a - b);
  };
}

function sortTable(table, heading) {
  const column = heading.cellIndex;
  const isText = column === 0;
  const before = heading.getAttribute("aria-sort");
  const first = isText ? "ascending" : "descending";
  const second = isText ? "descending" : "ascending";
  const order = before === first ? second : first;
  for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  const rows = [...table.tBodies[0].rows];
  rows.sort(compareRows(column, isText, order === "ascending" ? 1 : -1));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortTable(table, heading));
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
  }
}
