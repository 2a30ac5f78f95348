// Tables that sort: each column's button turns rising, falling, rising.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  headers.forEach((header, column) => {
    const button = header.querySelector("button");
    button?.addEventListener("click", () => {
      const rising = header.getAttribute("aria-sort") === "descending" || !header.hasAttribute("aria-sort");
      // Numbers are looked for from the top: highest first.
      const first = header.hasAttribute("aria-sort") ? rising : !header.classList.contains("number");
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", first ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (typeof x !== typeof y) return typeof x === "string" ? 1 : -1; // what is not measured comes last
        const order = typeof x === "number" ? x - y : x.localeCompare(y);
        return first ? order : -order;
      });
      body.append(...rows);
    });
  });
}
// What is folded away on a screen is not on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
