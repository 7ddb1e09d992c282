// One query: what was asked, what is known of it, and each method's proponents.
let latest = 0;

async function showQuery(view, query, state, hits) {
  const turn = ++latest;
  const main = byId("main");
  main.setAttribute("aria-busy", "true");
  const methods = shownMethods(view);
  const parts = await Promise.all(methods.map((method) => rankingSection(view, method, query, state, hits)));
  const entry = await rankingOf(view.group, view.method, query);
  const isShaded = parts.some((part) => part.querySelector(".shaded"));
  const width = ["", "two", "three"][methods.length - 1];
  if (turn !== latest) return; // another query was asked for in the meantime
  const { queries } = view;
  main.replaceChildren(
    element("h2", { class: "question" }, passageText(queries.prompt[query]), " ",
      element("span", { class: "target" }, passageText(queries.target[query]))),
    facts(view, query, entry?.m ?? {}),
    ...scores(methods, query),
    exportButtons(view, query),
    element("div", { class: `rankings ${width}` }, parts),
    ...(isShaded ? [sharesLegend()] : []),
    element("p", { class: isShaded ? "legend shaded" : "legend" }, "Marked: words that the passage shares with the ",
      element("mark", { class: "prompt" }, "prompt"), " and the ",
      element("mark", { class: "target" }, "target"), "."));
  main.removeAttribute("aria-busy");
  if (main.dataset.query !== queries.id[query]) main.scrollTop = 0;
  main.dataset.query = queries.id[query];
  document.title = `${queries.prompt[query]} ${queries.target[query]} · tdabench viewer`.slice(0, 200);
}

function facts(view, query, more) {
  const { queries, group } = view;
  const pairs = queries.slices
    .filter((slice) => slice.of[query] >= 0)
    .map((slice) => [slice.name, slice.labels[slice.of[query]]]);
  pairs.push(...Object.entries(more), ["query", queries.id[query]], ["task", group.task], ["model", group.model]);
  return element("dl", { class: "facts" }, pairs.map(([name, value]) =>
    element("div", {}, element("dt", {}, isolated(name.replaceAll("_", " "))), element("dd", {}, isolated(value)))));
}

// A row a method and a column a measure, of those that any of the methods has.
function scores(methods, query) {
  const heads = new Map();
  for (const method of methods) {
    for (const column of method.measures.columns) {
      const value = column.values[query];
      if (value !== null && value !== undefined) heads.set(column.name, column.title);
    }
  }
  if (!heads.size) return [];
  const rows = methods.map((method) => element("tr", {},
    element("th", { scope: "row" }, isolated(method.label)),
    [...heads.keys()].map((name) => {
      const column = columnOf(method, name);
      return element("td", { class: "number" }, column ? measured(column, query) : "–");
    })));
  return [element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Measures of this query" },
    element("table", { class: "scores" },
      element("caption", { class: "unseen" }, "Measures of this query"),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "method"),
        [...heads.values()].map((title) => element("th", { scope: "col", class: "number" }, title)))),
      element("tbody", {}, rows)))];
}
