const compare = new Intl.Collator("en", { numeric: true }).compare;

function key(body, column) {
  return body.rows[0].cells[column].dataset.v;
}

function sortBy(head) {
  const table = head.closest("table");
  const column = head.cellIndex;
  const isText = head.classList.contains("name");
  const first = isText ? "ascending" : "descending";
  const second = isText ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const bodies = [...table.tBodies].sort((a, b) => {
    const x = key(a, column), y = key(b, column);
    if (x === "" || y === "") return (x === "") - (y === ""); // not measured: last either way
    return sign * (isText ? compare(x, y) : Number(x) - Number(y));
  });
  table.append(...bodies);
}

for (const button of document.querySelectorAll(".board > thead button")) {
  button.addEventListener("click", () => sortBy(button.parentNode));
}

for (const button of document.querySelectorAll(".open")) {
  button.addEventListener("click", () => {
    const more = document.getElementById(button.getAttribute("aria-controls"));
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
  });
}

const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const bodies = [...document.querySelectorAll("tbody[data-method]")];
  for (const body of bodies) {
    const name = body.dataset.method.toLowerCase();
    body.hidden = !words.every((word) => name.includes(word));
  }
  const left = bodies.filter((body) => !body.hidden).length;
  document.getElementById("shown").textContent = words.length ? `${left} of ${bodies.length} rows` : "";
});
