// Tables whose columns can be sorted: each title is a button, and the screen reader hears the order by aria-sort.

const collator = new Intl.Collator("en", { numeric: true });

/** What a cell is sorted by: its number, if its column has numbers, else its text; null where it has none. */
function sortKey(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "-") return null;
  if (!cell.classList.contains("number")) return text;
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
}

/** Order rows by a column; those without a value come last in both directions, equal ones stay as they are. */
function sortRows(body, column, sign) {
  const keyed = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  keyed.sort(([one], [two]) => {
    if (one === null || two === null) return (one === null) - (two === null);
    return sign * (typeof one === "number" ? one - two : collator.compare(one, two));
  });
  body.append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const falls = head.classList.contains("number"); // of numbers the largest are wanted first
      const before = head.getAttribute("aria-sort");
      const descending = before === null ? falls : before === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table.tBodies[0], column, descending ? -1 : 1);
    });
  });
}
