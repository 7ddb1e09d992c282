// Passages: the words that they share with the query are marked, and long ones are cut.
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

function marked(text, words) {
  const nodes = [];
  let from = 0, marks = 0;
  for (const match of text.matchAll(WORD)) {
    const kind = words.get(match[0].toLowerCase());
    if (kind === undefined) continue;
    if (++marks > MOST_MARKS) break;
    nodes.push(text.slice(from, match.index), element("mark", { class: kind }, match[0]));
    from = match.index + match[0].length;
  }
  nodes.push(text.slice(from));
  return nodes;
}

function passageText(text, words = new Map()) {
  const holder = isolated("", { class: "text", dir: "auto" });
  if (text.length <= SHOWN * 1.2) {
    holder.append(...marked(text, words));
    return [holder];
  }
  const end = SHOWN + (/[\ud800-\udbff]/.test(text[SHOWN - 1]) ? 1 : 0);
  const button = element("button", { type: "button", class: "quiet more", "aria-expanded": "false" });
  const show = (all) => {
    holder.replaceChildren(...marked(all ? text : `${text.slice(0, end)}…`, words));
    button.textContent = all ? "Show less" : `Show all ${count.format(text.length)} characters`;
    button.setAttribute("aria-expanded", String(all));
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
  show(false);
  return [holder, button];
}
