// What is shown of a query as a file: JSON for programs, Markdown for notes.
const FORMATS = { json: ["application/json", exportedJson], md: ["text/markdown", exportedMarkdown] };

function exportButtons(view, query) {
  return element("p", { class: "export" }, "Export this query:", Object.keys(FORMATS).flatMap((format) => [" ",
    element("button", { type: "button", class: "quiet", "data-format": format, onclick: () => save(view, query, format) },
      format === "json" ? "JSON" : "Markdown")]));
}

async function save(view, query, format) {
  const [type, write] = FORMATS[format];
  const name = view.queries.id[query].replace(/[^\p{L}\p{N}-]+/gu, "_").slice(0, 80);
  const address = URL.createObjectURL(new Blob([write(await exported(view, query, readState()))], { type }));
  element("a", { href: address, download: `query-${name}.${format}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

// The current query as data: what is on the page, and no more of the lists than is shown there.
async function exported(view, query, state) {
  const { queries, group } = view;
  const methods = await Promise.all(shownMethods(view).map(async (method) => {
    const entry = await rankingOf(group, method, query);
    const own = { method: method.label, measures: {}, proponents: [], opponents: [] };
    for (const { name, values } of method.measures.columns) own.measures[name] = values[query];
    if (!entry) return own;
    const { proponents, opponents } = shownOf(entry, state);
    const texts = await passagesOf(group, entry.p);
    const line = (place, rank, score, shares) => ({
      rank, ...texts[place], score: score ?? null, ...(shares ? { shares: triples(shares) } : {}),
    });
    for (let i = 0; i < proponents; i++) {
      own.proponents.push({
        ...Object.fromEntries(method.columns.filter((name) => entry.x?.[name]).map((name) => [name, entry.x[name][i]])),
        ...line(i, i + 1, entry.s?.[i], entry.t?.[i]),
        ...(entry.c ? { correct: entry.c[i] === "1" } : {}),
      });
    }
    for (let i = 0; i < opponents; i++) own.opponents.push(line(entry.n + i, i + 1, entry.o?.[i], entry.u?.[i]));
    return own;
  }));
  return {
    task: group.task, model: group.model, query: queries.id[query], prompt: queries.prompt[query],
    target: queries.target[query],
    groups: Object.fromEntries(queries.slices.filter((slice) => slice.of[query] >= 0)
      .map((slice) => [slice.name, slice.labels[slice.of[query]]])),
    methods,
  };
}

const triples = (flat) => Array.from({ length: flat.length / 3 }, (_, i) => flat.slice(3 * i, 3 * i + 3));

function exportedJson(data) {
  return `${JSON.stringify(data, null, 1)}\n`;
}

// A text of the corpus in Markdown: one line, of which no character means anything.
const plain = (text) => String(text).replace(/\s+/g, " ").replace(/[\\`*_{}[\]<>()#+\-.!|~&:@$]/g, "\\$&").trim();

function exportedMarkdown(data) {
  const lines = [`# ${plain(data.prompt)} **${plain(data.target)}**`, "",
    `query ${plain(data.query)}, task ${plain(data.task)}, model ${plain(data.model)}`,
    ...Object.entries(data.groups).map(([name, label]) => `- ${plain(name)}: ${plain(label)}`)];
  for (const { method, measures, proponents, opponents } of data.methods) {
    lines.push("", `## ${plain(method)}`, "",
      ...Object.entries(measures).filter(([, value]) => value !== null && value !== undefined)
        .map(([name, value]) => `- ${plain(name)}: ${shortNumber(value)}`));
    for (const [title, listed] of [["Proponents", proponents], ["Opponents", opponents]]) {
      if (!listed.length) continue;
      lines.push("", `### ${title}`, "", "| # | correct | score | passage | id |", "| --: | :-- | --: | :-- | :-- |",
        ...listed.map(({ rank, correct, score, text, id }) =>
          `| ${rank} | ${correct ? "yes" : correct === false ? "no" : ""} | ${shortNumber(score)} | ${plain(text)} | ${plain(id)} |`));
    }
  }
  return `${lines.join("\n")}\n`;
}
