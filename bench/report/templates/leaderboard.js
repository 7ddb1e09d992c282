// What is chosen stands in the address: #sort=tail_patch:ascending&filter=cos&columns=mrr,hit@10
const compare = new Intl.Collator("en", { numeric: true }).compare;
const byId = (id) => document.getElementById(id);
const boards = [...document.querySelectorAll("table.board")];
const boxes = [...byId("columns").querySelectorAll("input")];
const asWritten = new Map(boards.map((table) => [table, [...table.tBodies]]));
const heads = (table) => [...table.tHead.rows[0].cells];
const headOf = (table, column) => heads(table).find((head) => head.dataset.column === column);

function readState() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const columns = parameters.get("columns");
  return { sort: parameters.get("sort") ?? "", filter: parameters.get("filter") ?? "",
    columns: columns === null ? null : columns.split(",") };
}

// A choice goes into the history; what changes with every key does not.
function go(changes, lasting = true) {
  const { sort, filter, columns } = { ...readState(), ...changes };
  const parameters = new URLSearchParams();
  if (sort) parameters.set("sort", sort);
  if (filter) parameters.set("filter", filter);
  if (columns) parameters.set("columns", columns.join(","));
  const address = `#${parameters}`;
  if (lasting) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  apply();
}

function apply() {
  const state = readState();
  for (const table of boards) sortTable(table, state.sort);
  filterRows(state.filter);
  fitColumns(state);
}

// ------------------------------------------------------------------ rows

function splitSort(sort) {
  const at = sort.lastIndexOf(":");
  return [sort.slice(0, at), sort.slice(at + 1)];
}

const key = (body, column) => body.rows[0].cells[column].dataset.v;

function sortTable(table, sort) {
  const [column, order] = splitSort(sort);
  const head = headOf(table, column);
  for (const other of heads(table)) other.removeAttribute("aria-sort");
  if (!head || !["ascending", "descending"].includes(order)) {
    table.append(...asWritten.get(table));
    table.querySelector("th[data-main]")?.setAttribute("aria-sort", "descending");
    return;
  }
  head.setAttribute("aria-sort", order);
  const isText = head.classList.contains("name"), place = head.cellIndex;
  const sign = order === "ascending" ? 1 : -1;
  table.append(...[...asWritten.get(table)].sort((a, b) => {
    const x = key(a, place), y = key(b, place);
    if (x === "" || y === "") return (x === "") - (y === ""); // not measured: last either way
    return sign * (isText ? compare(x, y) : Number(x) - Number(y));
  }));
}

function clickHead(head) {
  const first = head.classList.contains("name") ? "ascending" : "descending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  go({ sort: `${head.dataset.column}:${order}` });
}

function filterRows(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const bodies = boards.flatMap((table) => [...table.tBodies]);
  for (const body of bodies) {
    const name = body.dataset.method.toLowerCase();
    body.hidden = !words.every((word) => name.includes(word));
  }
  const left = bodies.filter((body) => !body.hidden).length;
  byId("shown").textContent = words.length ? `${left} of ${bodies.length} rows` : "";
  if (document.activeElement !== byId("filter")) byId("filter").value = text;
}

// ------------------------------------------------------------------ columns

function show(table, head, isShown) {
  const place = head.cellIndex;
  head.hidden = !isShown;
  for (const body of table.tBodies) body.rows[0].cells[place].hidden = !isShown;
}

// Chosen columns, or as many as fit: the least telling one goes first, the sorted one never.
function fitColumns({ columns, sort }) {
  const sorted = splitSort(sort)[0], seen = new Set();
  for (const table of boards) {
    const others = heads(table).filter((head) => !head.classList.contains("name"));
    for (const head of others) {
      const { column, alike } = head.dataset;
      show(table, head, columns ? columns.includes(column) : alike === undefined || column === sorted);
    }
    if (!columns) {
      const order = others.filter((head) => !head.hidden && head.dataset.column !== sorted)
        .reverse().sort((a, b) => b.dataset.rank - a.dataset.rank);
      while (order.length && table.parentNode.scrollWidth > table.parentNode.clientWidth) {
        show(table, order.shift(), false);
      }
    }
    for (const head of others) if (!head.hidden) seen.add(head.dataset.column);
  }
  for (const box of boxes) box.checked = seen.has(box.value);
  byId("fitted").textContent = `${seen.size} of ${boxes.length}`;
}

// ------------------------------------------------------------------ controls

for (const button of document.querySelectorAll(".board > thead button")) {
  button.addEventListener("click", () => clickHead(button.parentNode));
}
for (const box of boxes) {
  box.addEventListener("change", () =>
    go({ columns: boxes.filter((one) => one.checked).map((one) => one.value) }));
}
byId("fit").addEventListener("click", () => go({ columns: null }));
byId("filter").addEventListener("input", () => go({ filter: byId("filter").value }, false));
byId("to-figures")?.addEventListener("click", (event) => {
  event.preventDefault(); // the address holds what is chosen, not a place in the page
  byId("figures").scrollIntoView();
  byId("figures").focus({ preventScroll: true });
});
for (const button of document.querySelectorAll(".open")) {
  button.addEventListener("click", () => {
    const more = byId(button.getAttribute("aria-controls"));
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
  });
}
addEventListener("hashchange", apply);
addEventListener("popstate", apply);
addEventListener("resize", () => fitColumns(readState()));
apply();
document.documentElement.dataset.applied = "1";
