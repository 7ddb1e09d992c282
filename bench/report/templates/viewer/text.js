// Passages: the words that they share with the query are marked, what tokens add to the score is
// shaded, and long ones are cut.
const SHOWN = 1000; // characters of a passage before "show all"
const MOST_MARKS = 5000;
const WORD = /[\p{L}\p{N}]+(?:\p{M}+[\p{L}\p{N}]*)*/gu;
const COMMON = new Set(
  ("a an and are as at be been but by for from had has have he her his if in into is it its of on " +
   "or s she so that the their there they this to was were which who whom whose will with").split(" "));

function wordsOf(text) {
  return (text.toLowerCase().match(WORD) ?? []).filter((word) => !COMMON.has(word));
}

// Which words to mark, and how: the target's stand out from the prompt's.
function sharedWords(prompt, target) {
  const words = new Map(wordsOf(prompt).map((word) => [word, "prompt"]));
  for (const word of wordsOf(target)) words.set(word, "target");
  return words;
}

function markRanges(text, words) {
  const ranges = [];
  for (const match of text.matchAll(WORD)) {
    const kind = words.get(match[0].toLowerCase());
    if (kind === undefined) continue;
    if (ranges.length === MOST_MARKS) break;
    ranges.push({ start: match.index, end: match.index + match[0].length, kind });
  }
  return ranges;
}

// The text in pieces, each within its mark and its shading; `shades` and marks are in order.
function marked(text, words, shades = []) {
  const marks = markRanges(text, words), nodes = [];
  const ends = new Set([...marks, ...shades].flatMap(({ start, end }) => [start, Math.min(end, text.length)]));
  let from = 0, mark = 0, shade = 0;
  for (const end of [...ends, text.length].sort((a, b) => a - b)) {
    if (end <= from || end > text.length) continue;
    while (marks[mark]?.end <= from) mark++;
    while (shades[shade]?.end <= from) shade++;
    let node = text.slice(from, end);
    if (marks[mark]?.start <= from) node = element("mark", { class: marks[mark].kind }, node);
    if (shades[shade]?.start <= from) node = element("span", { class: shades[shade].kind, title: shades[shade].title }, node);
    nodes.push(node);
    from = end;
  }
  return nodes;
}

function passageText(text, words = new Map(), shares = null) {
  const holder = isolated("", { class: shares ? "text shaded" : "text", dir: "auto" });
  const made = (part) => marked(part, words, shares ? shades(shares) : []);
  if (text.length <= SHOWN * 1.2) {
    holder.append(...made(text));
    return [holder];
  }
  const end = SHOWN + (/[\ud800-\udbff]/.test(text[SHOWN - 1]) ? 1 : 0);
  const button = element("button", { type: "button", class: "quiet more", "aria-expanded": "false" });
  const show = (all) => {
    holder.replaceChildren(...made(all ? text : text.slice(0, end)), all ? "" : "…");
    button.textContent = all ? "Show less" : `Show all ${count.format(text.length)} characters`;
    button.setAttribute("aria-expanded", String(all));
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
  show(false);
  return [holder, button];
}
